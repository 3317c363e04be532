"""Policy losses as loops over tokens, in NumPy: one number at a time, nothing shared.

The oracle of `apportion.policy_loss` for the clipped losses, with bounds, scale and
level of the ratio of each token's own, and for every aggregation.
"""

from __future__ import annotations

import math

import numpy as np

Rows = list[list[int]]


def ratio_segments(
    mask: np.ndarray, level: str, turns: np.ndarray | None = None
) -> list[list[tuple]]:
    """Groups of `(row, position)` that share a ratio."""
    groups: dict[tuple, list[tuple]] = {}
    for row in range(mask.shape[0]):
        run, inside = 0, False
        for t in range(mask.shape[1]):
            valid = mask[row, t] > 0
            run += valid and not inside
            inside = valid
            if not valid:
                continue
            turn = run if turns is None else int(turns[row, t])
            key = {"token": (row, t), "turn": (row, turn), "sequence": (row,)}[level]
            groups.setdefault(key, []).append((row, t))
    return list(groups.values())


def clipped(
    log_probs: np.ndarray,
    old: np.ndarray,
    advantages: np.ndarray,
    mask: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    level: str,
    dual_clip: float | None = None,
) -> np.ndarray:
    """Token losses of PPO's clip, `(B, T)`, 0 outside the mask."""
    losses = np.zeros(mask.shape)
    for group in ratio_segments(mask, level):
        ratio = math.exp(sum(log_probs[i] - old[i] for i in group) / len(group))
        for i in group:
            within = min(max(ratio, 1 - low[i]), 1 + high[i])
            losses[i] = max(-advantages[i] * ratio, -advantages[i] * within)
            if dual_clip is not None and advantages[i] < 0:
                losses[i] = min(losses[i], -advantages[i] * dual_clip)
    return losses


def aggregate(
    losses: np.ndarray,
    mask: np.ndarray,
    mode: str,
    length: float,
    prompts: np.ndarray | None = None,
) -> float:
    """Token losses as one number; rows without a valid token do not count.

    `prompts` says for `prompt-mean` which prompt a row answers.
    """
    if mode == "prompt-mean":
        assert prompts is not None
        means = []
        for prompt in np.unique(prompts):
            own = mask[prompts == prompt] > 0
            means.append(losses[prompts == prompt][own].sum() / max(own.sum(), 1))
        return sum(means) / len(means)
    rows = [
        [losses[i, t] for t in range(mask.shape[1]) if mask[i, t] > 0] for i in range(len(mask))
    ]
    rows = [row for row in rows if row]
    total = sum(sum(row) for row in rows)
    if mode == "token-mean":
        return total / sum(len(row) for row in rows)
    if mode == "token-sum":
        return total
    if mode == "seq-mean-token-sum":
        return total / len(rows)
    if mode == "seq-mean-token-mean":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    if mode == "seq-mean-token-sum-norm":
        return total / length
    return total / (len(rows) * length)  # dr-grpo
