"""Outcome advantages: one score a row, compared inside its prompt group.

Formulas: verl `trainer/ppo/core_algos.py`, TRL `grpo_trainer.py`, OpenRLHF
`experience_maker.py`. May depend on `oracles.common` alone.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .common import (
    Array,
    as_floats,
    group_normalise,
    masked_whiten,
    mean,
    members_by_key,
    row_sums,
    spread,
    to_tokens,
)

Keys = Sequence[Hashable]


def grpo(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    scale: str = "std",
    scope: str = "group",
    eps: float = 1e-6,
    singleton: str = "raw",
) -> Array:
    """`(s - mean) / (std + eps)` of each row's score in its group, on its valid tokens `(N, T)`.

    `scale` as in `common.spread`: "none" is Dr.GRPO, "floored" verl's vectorised form.
    `scope="batch"` divides by the deviation of all present scores instead of the group's.
    """
    scores = row_sums(token_level_rewards)
    if scope == "group":
        rows = group_normalise(scores, index, scale=scale, eps=eps, singleton=singleton)
    elif scope == "batch":
        rows = group_normalise(scores, index, scale="none", singleton=singleton)
        present = [float(s) for s in scores if not np.isnan(s)]
        if len(present) > 1:
            rows = rows / spread(present, scale=scale, eps=eps)
    else:
        raise ValueError(f"unknown scope {scope!r}")
    return to_tokens(rows, response_mask)


def grpo_passk(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    scale: str = "std",
    eps: float = 1e-6,
) -> Array:
    """Only the first best row of a group gets `(best - second best) / (std + eps)`.

    arXiv 2503.19595. A group with fewer than two present scores is an error.
    """
    scores = row_sums(token_level_rewards)
    rows = np.zeros_like(scores)
    for key, members in members_by_key(index).items():
        present = [i for i in members if not np.isnan(scores[i])]
        if len(present) < 2:
            raise ValueError(f"pass@k needs at least 2 rows a group, group {key!r} has fewer")
        best = present[0]
        for i in present:
            if scores[i] > scores[best]:
                best = i
        second = max(float(scores[i]) for i in present if i != best)
        group = [float(scores[i]) for i in present]
        rows[best] = (scores[best] - second) / spread(group, scale=scale, eps=eps)
    return to_tokens(rows, response_mask)


def leave_one_out(values: Array, index: Keys) -> Array:
    """For each row the mean over the *other* present rows of its group; NaN without others."""
    out = np.full_like(values, np.nan)
    for members in members_by_key(index).values():
        for i in members:
            others = [float(values[j]) for j in members if j != i and not np.isnan(values[j])]
            if others:
                out[i] = mean(others)
    return out


def rloo(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    singleton: str = "raw",
) -> Array:
    """`s - mean of the others`. A singleton keeps its score ("raw", row form) or gets 0 ("zero",
    vectorised form)."""
    scores = row_sums(token_level_rewards)
    others = leave_one_out(scores, index)
    rows = np.zeros_like(scores)
    for i in range(len(scores)):
        if np.isnan(scores[i]):
            continue
        if np.isnan(others[i]):
            rows[i] = scores[i] if singleton == "raw" else 0.0
        else:
            rows[i] = scores[i] - others[i]
    return to_tokens(rows, response_mask)


def opo(token_level_rewards: ArrayLike, response_mask: ArrayLike, index: Keys) -> Array:
    """`s - b` with the length-weighted mean b of the group (arXiv 2505.23585).

    A singleton has b = 0. A group without a valid token gets 0 (the reference gives NaN, on
    masked tokens only).
    """
    scores = row_sums(token_level_rewards)
    lengths = as_floats(response_mask).sum(axis=1)
    rows = np.zeros_like(scores)
    for members in members_by_key(index).values():
        present = [i for i in members if not np.isnan(scores[i])]
        weight = sum(float(lengths[i]) for i in present)
        if weight == 0:
            continue
        baseline = sum(float(lengths[i] * scores[i]) for i in present) / weight
        if len({float(scores[i]) for i in present}) == 1:
            baseline = float(scores[present[0]])
        if len(present) == 1:
            baseline = 0.0
        for i in present:
            rows[i] = scores[i] - baseline
    return to_tokens(rows, response_mask)


def gpg(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    f_norm: float = 1.0,
    singleton: str = "raw",
) -> Array:
    """`alpha * (s - mean) / f_norm` with alpha = rows / rows whose score is not 0.

    Absent rows (NaN) count in neither number.
    """
    scores = row_sums(token_level_rewards)
    present = [float(s) for s in scores if not np.isnan(s)]
    alpha = len(present) / max(sum(s != 0 for s in present), 1)
    rows = group_normalise(scores, index, scale="none", singleton=singleton)
    return to_tokens(alpha * rows / f_norm, response_mask)


def reinforce_pp_baseline(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    singleton: str = "raw",
) -> Array:
    """`s - group mean`, tiled over tokens, whitened over the batch's valid tokens, masked."""
    centred = group_normalise(
        row_sums(token_level_rewards), index, scale="none", singleton=singleton
    )
    tiled = to_tokens(centred, response_mask)
    return masked_whiten(tiled, response_mask) * as_floats(response_mask)


def gdpo(
    rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    weights: Sequence[float] | None = None,
    scale: str = "std",
    eps: float = 1e-6,
    singleton: str = "raw",
) -> Array:
    """GDPO (arXiv 2601.05242): each column of `rewards` `(N, K)` normalised as in GRPO, the
    weighted sum over columns written on the valid tokens and whitened over the batch, masked."""
    columns = as_floats(rewards)
    w = [1.0] * columns.shape[1] if weights is None else list(weights)
    total = np.zeros(columns.shape[0])
    for k in range(columns.shape[1]):
        total += w[k] * group_normalise(
            columns[:, k], index, scale=scale, eps=eps, singleton=singleton
        )
    tokens = to_tokens(total, response_mask)
    return masked_whiten(tokens, response_mask) * as_floats(response_mask)


def maxrl(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    eps: float = 1e-6,
    singleton: str = "raw",
    non_positive_mean: str = "divide",
) -> Array:
    """MaxRL (arXiv 2602.02710): `(s - mean) / (mean + eps)`.

    The defaults are SkyRL's: a singleton keeps its raw score, and any mean is divided by.
    prime-rl is `eps=0, singleton="zero", non_positive_mean="zero"`: a group whose mean is not
    positive carries no signal.
    """
    scores = row_sums(token_level_rewards)
    rows = np.zeros_like(scores)
    for members in members_by_key(index).values():
        present = [i for i in members if not np.isnan(scores[i])]
        group = [float(scores[i]) for i in present]
        if len(group) == 1:
            rows[present[0]] = group[0] if singleton == "raw" else 0.0
        elif group and max(group) > min(group):
            centre = mean(group)
            if centre <= 0 and non_positive_mean == "zero":
                continue
            for i in present:
                rows[i] = (scores[i] - centre) / (centre + eps)
    return to_tokens(rows, response_mask)


def trl_advantages(
    rewards_per_func: ArrayLike,
    *,
    num_generations: int,
    reward_weights: Sequence[float] | None = None,
    aggregation: str = "sum_then_normalize",
    scale_rewards: str = "group",
    eps: float = 1e-4,
) -> Array:
    """TRL's GRPO advantages `(N,)` from a reward matrix `(N, K)`, NaN = absent.

    Groups are blocks of `num_generations` rows. "sum_then_normalize": weighted sum, minus the
    group mean, over (Bessel std + eps) of the group, of the batch, or not at all.
    "normalize_then_sum": z-score of each column in its group, weighted sum, z-score over the
    batch. A row with every reward absent gets 0.
    """
    matrix = as_floats(rewards_per_func)
    n, k = matrix.shape
    w = [1.0] * k if reward_weights is None else list(reward_weights)
    index = [row // num_generations for row in range(n)]
    if aggregation == "normalize_then_sum":
        columns = [
            group_normalise(matrix[:, c], index, scale="std", eps=eps, singleton="zero")
            for c in range(k)
        ]
        columns = [np.where(np.isnan(matrix[:, c]), np.nan, columns[c]) for c in range(k)]
        summed = _weighted_row_sums(np.stack(columns, axis=1), w)
        return group_normalise(summed, [0] * n, scale="std", eps=eps, singleton="zero")
    if aggregation != "sum_then_normalize":
        raise ValueError(f"unknown aggregation {aggregation!r}")
    summed = _weighted_row_sums(matrix, w)
    if scale_rewards == "group":
        return group_normalise(summed, index, scale="std", eps=eps, singleton="zero")
    centred = group_normalise(summed, index, scale="none", singleton="zero")
    if scale_rewards == "none":
        return centred
    present = [float(s) for s in summed if not np.isnan(s)]
    if scale_rewards != "batch":
        raise ValueError(f"unknown scale_rewards {scale_rewards!r}")
    if len(present) < 2:
        return np.zeros(n)
    divided: Array = centred / spread(present, scale="std", eps=eps)
    return divided


def _weighted_row_sums(matrix: Array, weights: Sequence[float]) -> Array:
    """Row sums that skip NaN; NaN where the whole row is NaN."""
    out = np.full(matrix.shape[0], np.nan)
    for i, row in enumerate(matrix):
        terms = [w * float(r) for w, r in zip(weights, row, strict=True) if not np.isnan(r)]
        if terms:
            out[i] = sum(terms)
    return out


def openrlhf_shape_rewards(
    scores: ArrayLike, *, n_samples_per_prompt: int, estimator: str
) -> Array:
    """OpenRLHF's reward shaping before credit, `(N,)`; groups are consecutive blocks.

    "rloo": minus the mean of the others; "reinforce_baseline", "dr_grpo": minus the mean;
    "group_norm": the z-score with Bessel std + 1e-9.
    """
    s = as_floats(scores)
    index = [row // n_samples_per_prompt for row in range(len(s))]
    if estimator == "rloo":
        return s - leave_one_out(s, index)
    if estimator in ("reinforce_baseline", "dr_grpo"):
        return group_normalise(s, index, scale="none", singleton="zero")
    if estimator == "group_norm":
        return group_normalise(s, index, scale="std", eps=1e-9, singleton="zero")
    raise ValueError(f"unknown estimator {estimator!r}")
