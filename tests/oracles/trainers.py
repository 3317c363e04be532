"""Group statistics of trainers that depart from verl's: NeMo-RL, AReaL, ROLL, prime-rl.

One score a row in, one advantage a row out; `common.to_tokens` writes it on tokens. May depend on
`oracles.common` alone.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .common import Array, as_floats, group_normalise, mean, members_by_key, variance

Keys = Sequence[Hashable]


def nemo_rl(
    scores: ArrayLike,
    index: Keys,
    *,
    leave_one_out: bool = True,
    normalise: bool = True,
    eps: float = 1e-6,
) -> Array:
    """NeMo-RL's GRPO: baseline and Bessel std of the *other* rows of the group (of all rows
    without `leave_one_out`); divided by std + eps only where the std is above 0.

    Fewer than two others leave the std undefined, so a group of two is only centred. A singleton
    is 0.
    """
    s = as_floats(scores)
    out = np.zeros_like(s)
    for members in members_by_key(index).values():
        present = [i for i in members if not np.isnan(s[i])]
        if len(present) < 2:
            continue
        for i in present:
            pool = [float(s[j]) for j in present if j != i or not leave_one_out]
            deviation = math.sqrt(variance(pool, 1)) if len(pool) > 1 else 0.0
            out[i] = s[i] - mean(pool)
            if normalise and deviation > 0:
                out[i] /= deviation + eps
    return out


def areal(
    scores: ArrayLike,
    index: Keys,
    *,
    mean_level: str = "group",
    std_level: str = "group",
    leave_one_out: bool = False,
    unbiased: bool = True,
    eps: float = 1e-5,
) -> Array:
    """AReaL's `Normalization` on rows: `(s - mean) / (std + eps)`, levels "group", "batch", "none".

    The std is taken about whatever mean was subtracted, leave-one-out included. A lone value has
    mean itself (0 under leave-one-out) and, when unbiased, std 1.
    """
    s = as_floats(scores)
    present = [i for i in range(len(s)) if not np.isnan(s[i])]
    levels: dict[str, list[Hashable]] = {
        "group": [index[i] for i in present],
        "batch": [0] * len(present),
    }
    centred = {i: float(s[i]) for i in present}
    if mean_level != "none":
        for places in members_by_key(levels[mean_level]).values():
            rows = [present[p] for p in places]
            for i in rows:
                pool = [float(s[j]) for j in rows if j != i or not leave_one_out]
                centred[i] = float(s[i]) - (mean(pool) if pool else 0.0)
    out = np.zeros_like(s)
    for i in present:
        out[i] = centred[i]
    if std_level != "none":
        for places in members_by_key(levels[std_level]).values():
            rows = [present[p] for p in places]
            squares = sum(centred[i] ** 2 for i in rows)
            lone = unbiased and len(rows) < 2
            divisor = 1.0 if lone else math.sqrt(squares / (len(rows) - int(unbiased)))
            for i in rows:
                out[i] = centred[i] / (divisor + eps)
    return out


def roll(scores: ArrayLike, index: Keys, *, eps: float = 1e-6) -> Array:
    """ROLL's group normalisation: z-score with Bessel std + eps, 0 when alone or std <= 1e-6."""
    s = as_floats(scores)
    out = np.zeros_like(s)
    for members in members_by_key(index).values():
        present = [i for i in members if not np.isnan(s[i])]
        group = [float(s[i]) for i in present]
        if len(group) > 1 and math.sqrt(variance(group, 1)) > 1e-6:
            for i in present:
                out[i] = (s[i] - mean(group)) / (math.sqrt(variance(group, 1)) + eps)
    return out


def prime_rl(scores: ArrayLike, index: Keys) -> Array:
    """prime-rl's GRPO: the score minus the group mean, never divided; a singleton is 0."""
    return group_normalise(scores, index, scale="none", singleton="zero")
