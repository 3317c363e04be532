"""The pieces that methods are made of, for estimators of your own.

Every function takes and returns flat or padded NumPy arrays, computes in float64
and refuses what does not fit with an error that names the index. An estimator
made of them goes to `apportion.credit(function, rollouts)` as it is.
Depends on `rollouts`, `encode` and the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from apportion import _core, encode
from apportion.arrays import Array, floats, integers, vector
from apportion.errors import InputError
from apportion.rollouts import Rollouts
from apportion.threads import get_num_threads


def _finite(name: str, array: Array, nan: bool = False) -> Array:
    bad = np.flatnonzero(np.isinf(array) if nan else ~np.isfinite(array))
    if bad.size:
        wanted = "a finite number, or NaN for an absent value" if nan else "a finite number"
        raise InputError(f"{name}[{bad[0]}]: got {array[bad[0]]}, expected {wanted}")
    return array


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise InputError(f"{name}: got {value!r}, expected a finite number")
    return number


def _same_length(name: str, array: Array, expected: int) -> Array:
    if len(array) != expected:
        raise InputError(f"{name}: got {len(array)} values, expected {expected}")
    return array


def group(*ids: Any) -> Array:
    """Dense group numbers `(N,)` int64, numbered by first appearance.

    Each of `ids` is `(N,)` of any kind: strings, bytes, integers of any size,
    tuples, arrays. With several, items are together where all of them are equal.

    >>> group(["b", "a", "b"])
    array([0, 1, 0])
    """
    if not ids:
        raise InputError("ids: got none, expected at least one sequence of ids")
    dense = [_core.group("ids", encode.keys("ids", part)) for part in ids]
    for part in dense[1:]:
        _same_length("ids", part, len(dense[0]))
    if len(dense) == 1:
        return dense[0]
    return group([tuple(map(int, key)) for key in zip(*dense, strict=True)])


def group_normalise(
    values: Any,
    ids: Any,
    *,
    weights: Any = None,
    weighting: str = "counts",
    include: Any = None,
    **rule: Any,
) -> Array:
    """Centre and scale `values` `(N,)` within groups of equal `ids` `(N,)`.

    `(x - centre) / (max(sqrt(max(var, var_floor) + var_eps), floor) + eps)`.

    Args:
        values: NaN is absent: in no statistic, result 0. Infinity is an error.
        ids: ids of any kind.
        weights: `(N,)`, at least 0. With `weighting="counts"` a value of weight 3
            counts as three members, with `"lengths"` it only weighs more.
        include: `(N,)` booleans; what is excluded is treated as absent.
        **rule: `centre` ("mean", "median", "lower_median", "leave_one_out", "none"),
            `scale` ("std", "none", "mad", "leave_one_out_std", "batch"), `ddof`,
            `eps`, `var_eps`, `var_floor`, `floor`, `singleton` ("raw", "zero"),
            `zero_spread` ("zero", "undivided"), `spread_tolerance`.

    Degenerate cases: equal values give exactly 0; a group of one gives its value
    over `1 + eps`, or 0 with `singleton="zero"`.
    """
    array = _finite("values", vector("values", values), nan=True)
    if include is not None:
        kept = _same_length("include", vector("include", include), len(array))
        array = np.where(kept != 0, array, np.nan)
    dense = _same_length("ids", _core.group("ids", encode.keys("ids", ids)), len(array))
    if weighting not in ("counts", "lengths"):
        raise InputError(f"weighting: got {weighting!r}, expected 'counts' or 'lengths'")
    given = None
    if weights is not None:
        given = _finite("weights", vector("weights", weights))
        _same_length("weights", given, len(array))
        if (given < 0).any():
            index = int(np.flatnonzero(given < 0)[0])
            raise InputError(f"weights[{index}]: got {given[index]}, expected at least 0")
    return _core.group_normalise(array, dense, given, weighting == "counts", rule)


def whiten(values: Any, mask: Any, *, remask: bool = True, **rule: Any) -> Any:
    """Bring trained tokens of a batch to mean 0 and variance 1.

    `(x - mean) / sqrt(max(var, var_floor) + eps)` with `mean = sum / (n + mean_eps)`
    over the tokens where `mask` `(N, T)` is 1.

    Args:
        values: `(N, T)`; what stands outside the mask reaches no statistic.
        mask: `(N, T)`, 0 or 1.
        remask: give 0 outside the mask; otherwise the same map is applied there.
        **rule: `ddof` 1, `eps` 1e-8, `var_floor` 0, `mean_eps` 1e-8, `shift_mean`
            True, `divide` True: verl's `masked_whiten`.

    Degenerate cases: equal values, and a batch of at most `ddof` tokens, give 0.
    """
    rollouts = Rollouts.from_padded(mask)
    array = floats("values", values).astype(np.float64, copy=False)
    if array.shape != rollouts.origin.shape:
        raise InputError(
            f"values: got shape {array.shape}, expected {rollouts.origin.shape}, that of the mask"
        )
    flat = array.reshape(-1)
    return rollouts.origin.restore(
        _core.whiten(rollouts._batch, flat, remask, get_num_threads(), rule)
    )


def shape_rewards(
    scores: Any,
    mask: Any,
    *,
    kl: Any = None,
    kl_coef: float = 0.0,
    clip: Sequence[float] | None = None,
) -> Any:
    """Token rewards `(N, T)`: `r_t = [t is last] clip(s) - kl_coef kl_t` on trained tokens.

    The KL penalty inside the reward (Ouyang et al. 2022, arXiv:2203.02155), as
    OpenRLHF's `compute_reward` has it.

    Args:
        scores: `(N,)`, put on the last token with mask 1. NaN stays NaN: absent.
        mask: `(N, T)`, 0 or 1.
        kl: `(N, T)`, an estimate a token; read only where `mask` is 1.
        kl_coef: weight of the penalty; not above 0 means none.
        clip: smallest and largest score.

    Degenerate cases: a row without trained tokens gives zeros.
    """
    rollouts = Rollouts.from_padded(mask)
    given = _finite("scores", vector("scores", scores), nan=True)
    _same_length("scores", given, rollouts.layout.rows)
    bounds = None
    if clip is not None:
        low_high = floats("clip", clip)
        if low_high.shape != (2,) or not low_high[0] <= low_high[1]:
            raise InputError(f"clip: got {clip!r}, expected (smallest, largest)")
        bounds = (float(low_high[0]), float(low_high[1]))
    if kl is None:
        penalty = np.zeros(rollouts.layout.tokens)
    else:
        penalty = floats("kl", kl).astype(np.float64, copy=False)
        if penalty.shape != rollouts.origin.shape:
            raise InputError(
                f"kl: got shape {penalty.shape}, expected {rollouts.origin.shape}, the mask's"
            )
        read = rollouts.layout.mask != 0  # what stands elsewhere is never read
        penalty = _finite("kl", np.where(read, penalty.reshape(-1), 0.0))
    return rollouts.origin.restore(
        _core.shape_rewards(
            rollouts._batch, given, penalty, bounds, _number("kl_coef", kl_coef), get_num_threads()
        )
    )


def accumulate(values: Any, offsets: Any = None, *, how: str = "sum", gamma: float = 1.0) -> Array:
    """Accumulate each row of a flat array from its end.

    Args:
        values: flat `(M,)`.
        offsets: `(rows + 1,)` int64 where rows start; by default one row.
        how: `"sum"`: `G_k = r_k + gamma G_{k+1}`; `"min"`: `G_k = min(r_k, G_{k+1})`;
            `"root"`: divides the element with `n` elements left, itself among them,
            by `sqrt(n)`.
        gamma: discount of `"sum"`.
    """
    array = _finite("values", vector("values", values))
    bounds = np.array([0, len(array)]) if offsets is None else integers("offsets", offsets)
    if bounds.ndim != 1:
        raise InputError(f"offsets: got shape {bounds.shape}, expected (rows + 1,)")
    return _core.accumulate(array, bounds, how, _number("gamma", gamma))


def runs(mask: Any) -> tuple[Array, Array]:
    """Maximal runs of 1 in a mask `(N, T)`: `(N + 1,)` offsets and `(runs, 2)` spans.

    Spans are half-open and count from the row's start.
    """
    rollouts = Rollouts.from_padded(mask)
    offsets, spans = rollouts.turns
    rows = np.repeat(np.arange(rollouts.layout.rows), np.diff(offsets))
    return offsets, spans - rows[:, None] * (rollouts.layout.width or 0)
