"""PURE: min-form credit from process rewards, in its transform and its two branches.

Formulas: arXiv 2504.15275; branches verl and main (OpenRLHF) of the released code. May depend
on `oracles.common` alone.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .common import Array, as_floats, discounted_suffix_sums, masked_whiten, members_by_key

Keys = Sequence[Hashable]


def step_scores(logits: ArrayLike) -> Array:
    """`softmax(logits)[1] - softmax(logits)[0]` of the two classes, `(N, K)` from `(N, K, 2)`."""
    z = as_floats(logits)
    out = np.zeros(z.shape[:2])
    for i in range(z.shape[0]):
        for k in range(z.shape[1]):
            out[i, k] = math.tanh((z[i, k, 1] - z[i, k, 0]) / 2.0)
    return out


def transform(
    scores: ArrayLike, step_mask: ArrayLike, *, temperature: float = 0.1, uniform: bool = False
) -> Array:
    """`p softmax(-p / temperature)` over the steps of a row (or p / steps), 0 elsewhere `(N, K)`.

    A row without a step stays 0.
    """
    p, mask = as_floats(scores), as_floats(step_mask)
    out = np.zeros_like(p)
    for i in range(p.shape[0]):
        steps = [k for k in range(p.shape[1]) if mask[i, k]]
        if not steps:
            continue
        low = min(float(p[i, k]) for k in steps)
        weights = [math.exp((low - float(p[i, k])) / temperature) for k in steps]
        for k, w in zip(steps, weights, strict=True):
            out[i, k] = p[i, k] / len(steps) if uniform else p[i, k] * w / sum(weights)
    return out


def min_form_returns(rewards: ArrayLike, step_end_mask: ArrayLike) -> Array:
    """The minimum over the step ends at or after each token, `(N, T)`; 0 after the last end."""
    r, ends = as_floats(rewards), as_floats(step_end_mask)
    out = np.zeros_like(r)
    for i in range(r.shape[0]):
        running = math.inf
        for t in range(r.shape[1] - 1, -1, -1):
            if ends[i, t]:
                running = min(running, float(r[i, t]))
            out[i, t] = 0.0 if math.isinf(running) else running
    return out


def pure_verl(
    token_level_rewards: ArrayLike,
    eos_mask: ArrayLike,
    index: Keys,
    *,
    aggregate: str = "sum",
    normalise: bool = False,
    step_end_mask: ArrayLike | None = None,
    baseline_length: int | None = None,
    singleton: str = "nan",
) -> tuple[Array, Array]:
    """Advantages and returns `(N, T)` of the verl branch; the returns are the advantages before
    whitening.

    G: masked suffix sums ("sum"), or the running minimum from the end of r m over all
    positions ("min"; with `step_end_mask`, over step ends only). The baseline of a row is
    `sum of the other rows' summed returns / ((n - 1) L)`, L the padded length unless given;
    `A = (G - b) m`, then optionally whitened and masked. A singleton has no baseline: NaN as the
    released code, or 0 advantages under `singleton="zero"`.
    """
    rewards, mask = as_floats(token_level_rewards), as_floats(eos_mask)
    length = rewards.shape[1] if baseline_length is None else baseline_length
    if aggregate == "sum":
        sums = as_floats(
            [discounted_suffix_sums([float(r) for r in row], 1.0) for row in rewards * mask]
        )
    elif step_end_mask is not None:
        sums = min_form_returns(rewards * mask, step_end_mask)
    else:
        sums = min_form_returns(rewards * mask, np.ones_like(mask))
    advantages = np.zeros_like(rewards)
    for members in members_by_key(index).values():
        for i in members:
            others = [float(sums[j].sum()) for j in members if j != i]
            if others:
                advantages[i] = (sums[i] - sum(others) / (len(others) * length)) * mask[i]
            elif singleton == "nan":
                advantages[i] = np.nan
    if normalise:
        return masked_whiten(advantages, mask) * mask, advantages
    return advantages, advantages


def pure_openrlhf(
    process_rewards: ArrayLike,
    step_end_mask: ArrayLike,
    action_mask: ArrayLike,
    num_tokens_per_step: Sequence[Sequence[int]],
    outcomes: ArrayLike | None,
    index: Keys,
    *,
    baseline: str = "token",
    coef: float = 1.0,
    mask_separators: bool = True,
) -> tuple[Array, Array, Array]:
    """Baselined rewards, returns and advantages `(N, T)` of the OpenRLHF branch.

    "token": a step reward loses (sum of the others' rewards / sum of the others' lengths) times
    the step's tokens; "step": it loses the mean over the others of (rewards / steps). The outcome
    v - 1, minus its mean over the others, times coef, lands on the last action token. Advantages
    are the suffix sums, 0 at step ends unless `mask_separators` is off. Lengths are the action
    tokens of a row. A singleton group is NaN.
    """
    rewards, ends, mask = (
        as_floats(process_rewards),
        as_floats(step_end_mask),
        as_floats(action_mask),
    )
    out = rewards.copy()
    sums = [float(r) for r in (rewards * ends).sum(axis=1)]
    lengths = [float(n) for n in mask.sum(axis=1)]
    steps = [float(n) for n in ends.sum(axis=1)]
    for members in members_by_key(index).values():
        for i in members:
            others = [j for j in members if j != i]
            places = [t for t in range(rewards.shape[1]) if ends[i, t]]
            if not others:
                out[i] = np.nan
                continue
            per_token = sum(sums[j] for j in others) / sum(lengths[j] for j in others)
            per_step = sum(sums[j] / steps[j] for j in others) / len(others)
            for k, t in enumerate(places):
                out[i, t] -= (
                    per_token * num_tokens_per_step[i][k] if baseline == "token" else per_step
                )
            if outcomes is not None:
                verdict = as_floats(outcomes) - 1.0
                rest = sum(float(verdict[j]) for j in others) / len(others)
                last = max(t for t in range(mask.shape[1]) if mask[i, t])
                out[i, last] += coef * (float(verdict[i]) - rest)
    returns = as_floats([discounted_suffix_sums([float(r) for r in row], 1.0) for row in out])
    advantages = returns * (1.0 - ends) if mask_separators else returns.copy()
    return out, returns, advantages


def prm_label_matches(
    process_rewards: ArrayLike, step_end_mask: ArrayLike, outcomes: ArrayLike
) -> list[float]:
    """1 where the sign of a row's summed process rewards agrees with its outcome, else 0."""
    sums = (as_floats(process_rewards) * as_floats(step_end_mask)).sum(axis=1)
    return [
        float((total > 0) == (v > 0)) for total, v in zip(sums, as_floats(outcomes), strict=True)
    ]
