"""Turn-level credit from information gain: A2TGPO and its ancestor IGPO.

Formulas: the released `compute_igpo_step_advantage` and `compute_igpo_turn_level_advantage`.
May depend on `oracles.common` alone.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .common import (
    Array,
    as_floats,
    discounted_suffix_sums,
    group_normalise,
    last_valid,
    spread,
)

Keys = Sequence[Hashable]


class _Turns:
    """The turns of a packed batch as A2TGPO reads them: gains at non-zero valid tokens before
    the last, the outcome at the last valid token."""

    def __init__(self, rewards: Array, mask: Array) -> None:
        self.gain_at: list[list[int]] = []
        self.outcome_at: list[int | None] = []
        for i in range(mask.shape[0]):
            end = last_valid(mask[i])
            self.outcome_at.append(end)
            before = range(end) if end is not None else range(0)
            self.gain_at.append([t for t in before if mask[i, t] and rewards[i, t] != 0])
        self.gains = [
            [float(rewards[i, t]) for t in places] for i, places in enumerate(self.gain_at)
        ]
        self.outcomes = [
            float(rewards[i, t]) if t is not None else np.nan for i, t in enumerate(self.outcome_at)
        ]


def _normalise_ragged(
    gains: list[list[float]], keys: list[list[Hashable]], scale: str, eps: float
) -> list[list[float]]:
    """A ragged table normalised over equal keys; a lone value gives 0."""
    flat = [g for row in gains for g in row]
    flat_keys = [k for row in keys for k in row]
    normed = iter(group_normalise(flat, flat_keys, scale=scale, eps=eps, singleton="zero"))
    return [[float(next(normed)) for _ in row] for row in gains]


def a2tgpo(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    gamma: float = 1.0,
    alpha: float = 0.3,
    mode: str = "turn-group-v1d",
    divide_by_std: bool = True,
    eps: float = 1e-6,
) -> tuple[Array, Array]:
    """Advantages and clip scale `(N, T)` of A2TGPO; information gains are already in the rewards.

    "turn-group-v1d" is the paper's: gains normalised per (prompt, turn), discounted sums over
    sqrt(remaining gains), times alpha, plus the normalised outcome; clip scale
    1 + 0.3 (2 sigmoid(gain) - 1). "joint" and "separate" normalise per prompt and accumulate to
    the outcome (IGPO). "turn-group" mixes the outcome into the gains before normalising. Turn j
    covers the valid tokens after the previous boundary up to its own.
    """
    rewards, mask = as_floats(token_level_rewards), as_floats(response_mask)
    turns = _Turns(rewards, mask)
    scale = "biased_padded" if divide_by_std else "none"
    turn_keys: list[list[Hashable]] = [
        [(index[i], j) for j in range(len(row))] for i, row in enumerate(turns.gains)
    ]
    outcome = group_normalise(turns.outcomes, index, scale=scale, eps=eps, singleton="zero")
    per_turn: list[list[float]] = []
    clip: list[list[float]] = [[1.0] * (len(row) + 1) for row in turns.gains]
    if mode == "turn-group-v1d":
        normed = _normalise_ragged(turns.gains, turn_keys, scale, eps)
        for i, row in enumerate(normed):
            sums = discounted_suffix_sums(row, gamma)
            n = len(row)
            per_turn.append([alpha * d / (n - j) ** 0.5 + outcome[i] for j, d in enumerate(sums)])
            per_turn[i].append(float(outcome[i]))
            clip[i] = [1.0 + 0.3 * (2.0 / (1.0 + np.exp(-g)) - 1.0) for g in row] + [1.0]
    elif mode in ("joint", "separate"):
        per_turn = _igpo_turn_advantages(turns, index, mode == "joint", gamma, scale, eps)
    elif mode == "turn-group":
        per_turn = _turn_group(turns, turn_keys, outcome, gamma, scale, eps)
    else:
        raise ValueError(f"unknown mode {mode!r}")
    return _spread_turns(per_turn, turns, mask, 0.0), _spread_turns(clip, turns, mask, 1.0)


def igpo(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    gamma: float = 1.0,
    mode: str = "separate",
    outcome_weight: float = 1.0,
    gain_weight: float = 1.0,
    eps: float = 1e-6,
) -> Array:
    """IGPO's turn advantages `(N, T)`: outcome and gains, each times its curriculum weight, are
    normalised per prompt together ("joint") or apart ("separate"), then accumulated backwards
    with gamma through the outcome."""
    rewards, mask = as_floats(token_level_rewards), as_floats(response_mask)
    turns = _Turns(rewards, mask)
    turns.gains = [[gain_weight * g for g in row] for row in turns.gains]
    turns.outcomes = [outcome_weight * o for o in turns.outcomes]
    per_turn = _igpo_turn_advantages(turns, index, mode == "joint", gamma, "biased_padded", eps)
    return _spread_turns(per_turn, turns, mask, 0.0)


def _igpo_turn_advantages(
    turns: _Turns, index: Keys, joint: bool, gamma: float, scale: str, eps: float
) -> list[list[float]]:
    """Per row the accumulated advantages of its gain turns and, last, of its outcome."""
    rows = [[*gains, out] for gains, out in zip(turns.gains, turns.outcomes, strict=True)]
    keys: list[list[Hashable]] = []
    for i, row in enumerate(rows):
        kinds = ["any"] * len(row) if joint else ["gain"] * (len(row) - 1) + ["outcome"]
        keys.append([(index[i], kind) for kind in kinds])
    normed = _normalise_ragged(rows, keys, scale, eps)
    return [discounted_suffix_sums(row, gamma) for row in normed]


def _turn_group(
    turns: _Turns,
    turn_keys: list[list[Hashable]],
    outcome: Array,
    gamma: float,
    scale: str,
    eps: float,
) -> list[list[float]]:
    """`a_K = s g_K + gamma^2 O`, `a_j = s g_j + gamma a_{j+1}`, normalised per (prompt, turn),
    plus 1.5 times the normalised outcome; the answer turn gets the normalised outcome once.

    s is the batch std of outcomes over that of gains, each biased and at least eps, or 1 where
    there are fewer than two values.
    """
    ratio = _batch_std(turns.outcomes, eps) / _batch_std(
        [g for row in turns.gains for g in row], eps
    )
    mixed: list[list[float]] = []
    for row, out in zip(turns.gains, turns.outcomes, strict=True):
        running = gamma * out
        accumulated: list[float] = []
        for g in reversed(row):
            running = ratio * g + gamma * running
            accumulated.insert(0, running)
        mixed.append(accumulated)
    normed = _normalise_ragged(mixed, turn_keys, scale, eps)
    return [
        [*(g + 1.5 * out for g in row), out]
        for row, out in zip(normed, [float(o) for o in outcome], strict=True)
    ]


def _batch_std(values: Sequence[float], eps: float) -> float:
    present = [v for v in values if not np.isnan(v)]
    return max(spread(present, scale="biased", eps=0.0), eps) if len(present) > 1 else 1.0


def _spread_turns(
    per_turn: list[list[float]], turns: _Turns, mask: Array, elsewhere: float
) -> Array:
    """Write turn j's number on the valid tokens of (previous boundary, own boundary]."""
    out = np.full_like(mask, elsewhere)
    for i, end in enumerate(turns.outcome_at):
        if end is None:
            continue
        start = 0
        for boundary, value in zip([*turns.gain_at[i], end], per_turn[i], strict=True):
            for t in range(start, boundary + 1):
                if mask[i, t]:
                    out[i, t] = value
            start = boundary + 1
    return out
