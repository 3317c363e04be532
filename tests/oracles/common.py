"""What the oracles share: grouping, means and deviations, runs of a mask.

May depend on NumPy alone.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Span = tuple[int, int]


def as_floats(values: ArrayLike) -> Array:
    """A float64 copy of `values`."""
    return np.array(values, dtype=np.float64)


def members_by_key(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """The positions at which each key stands, keys in order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return groups


def mean(values: Sequence[float]) -> float:
    """The mean; exactly the common value when all values are equal."""
    if max(values) == min(values):
        return values[0]
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def variance(values: Sequence[float], ddof: int) -> float:
    """The variance with divisor `n - ddof`; exactly 0 when all values are equal."""
    if max(values) == min(values):
        return 0.0
    centre = mean(values)
    total = 0.0
    for value in values:
        total += (value - centre) ** 2
    return total / (len(values) - ddof)


def spread(values: Sequence[float], *, scale: str, eps: float) -> float:
    """The divisor that belongs to the named rule, for two or more values.

    `scale` is "none" (1), "std" (Bessel std + eps), "biased" (std with divisor n, + eps),
    "biased_padded" (sqrt(biased variance + 1e-8) + eps) or "floored"
    (sqrt(max(Bessel variance, eps)) + eps).
    """
    if scale == "none":
        return 1.0
    if scale == "std":
        return math.sqrt(variance(values, 1)) + eps
    if scale == "biased":
        return math.sqrt(variance(values, 0)) + eps
    if scale == "biased_padded":
        return math.sqrt(variance(values, 0) + 1e-8) + eps
    if scale == "floored":
        return math.sqrt(max(variance(values, 1), eps)) + eps
    raise ValueError(f"unknown scale {scale!r}")


def group_normalise(
    values: ArrayLike,
    keys: Sequence[Hashable],
    *,
    scale: str = "std",
    eps: float = 1e-6,
    singleton: str = "raw",
) -> Array:
    """`(x - mean) / spread` inside each group of equal keys; shape `(n,)`.

    NaN values are absent: they enter no statistic and come out as 0. A group with one present
    value gives `x / (1 + eps)` under `singleton="raw"` (mean 0, std 1), or x itself without a
    scale; 0 under `singleton="zero"`; NaN under `singleton="nan"`.
    """
    x = as_floats(values)
    out = np.zeros_like(x)
    for members in members_by_key(keys).values():
        present = [i for i in members if not np.isnan(x[i])]
        if len(present) == 1:
            only = present[0]
            if singleton == "raw":
                out[only] = x[only] if scale == "none" else x[only] / (1.0 + eps)
            elif singleton == "nan":
                out[only] = np.nan
            elif singleton != "zero":
                raise ValueError(f"unknown singleton rule {singleton!r}")
            continue
        group = [float(x[i]) for i in present]
        for i in present:
            if max(group) == min(group):
                out[i] = 0.0
            else:
                out[i] = (x[i] - mean(group)) / spread(group, scale=scale, eps=eps)
    return out


def row_sums(token_level_rewards: ArrayLike) -> Array:
    """Outcome scores: the sum over **all** positions, masked ones too; shape `(N,)`."""
    rewards = as_floats(token_level_rewards)
    return as_floats([sum(float(r) for r in row) for row in rewards])


def to_tokens(row_values: ArrayLike, response_mask: ArrayLike) -> Array:
    """One number a row, written on the row's valid tokens; shape `(N, T)`."""
    values, mask = as_floats(row_values), as_floats(response_mask)
    out = np.zeros_like(mask)
    for i in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[i, t]:
                out[i, t] = values[i]
    return out


def runs(mask_row: ArrayLike) -> list[Span]:
    """The maximal runs of 1 in a mask row, as half-open spans in order."""
    row = as_floats(mask_row)
    spans: list[Span] = []
    start: int | None = None
    for t in range(len(row)):
        if row[t] and start is None:
            start = t
        if not row[t] and start is not None:
            spans.append((start, t))
            start = None
    if start is not None:
        spans.append((start, len(row)))
    return spans


def last_valid(mask_row: ArrayLike) -> int | None:
    """The last position with mask 1, or None."""
    row = as_floats(mask_row)
    for t in range(len(row) - 1, -1, -1):
        if row[t]:
            return t
    return None


def discounted_suffix_sums(values: Sequence[float], gamma: float) -> list[float]:
    """`G_k = x_k + gamma * G_{k+1}`, with 0 after the last."""
    out = [0.0] * len(values)
    running = 0.0
    for k in range(len(values) - 1, -1, -1):
        running = values[k] + gamma * running
        out[k] = running
    return out


def masked_whiten(
    values: ArrayLike,
    mask: ArrayLike,
    *,
    shift_mean: bool = True,
    ddof: int = 1,
    eps: float = 1e-8,
    degenerate: str = "zero",
) -> Array:
    """`(x - mean) / sqrt(var + eps)` with statistics over the valid tokens of the whole batch.

    Shape `(N, T)`; padding is transformed as well and **not** set to 0. As in verl the mean is
    sum / (n + 1e-8), and the variance is taken about that mean. `shift_mean=False` adds the mean
    back. Fewer than `ddof + 1` valid tokens: zeros, or an error under `degenerate="raise"`
    (verl). What stands outside the mask enters no statistic, not even as NaN.
    """
    x, m = as_floats(values), as_floats(mask)
    valid = [float(v) for v, keep in zip(x.ravel(), m.ravel(), strict=True) if keep]
    n = len(valid)
    if n <= ddof:
        if degenerate == "raise":
            raise ValueError(f"whitening needs at least {ddof + 1} valid tokens, got {n}")
        return np.zeros_like(x)
    # Float32 swallows the 1e-8, so equal values whiten to 0 there; keep that here.
    centre = valid[0] if max(valid) == min(valid) else sum(valid) / (n + 1e-8)
    biased = sum((v - centre) ** 2 for v in valid) / (n + 1e-8)
    var = biased * n / (n - ddof)
    out: Array = (x - centre) / math.sqrt(var + eps)
    return out if shift_mean else out + centre
