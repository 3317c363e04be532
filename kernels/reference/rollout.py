"""Corrections where the sampler's probabilities differ from the trainer's. Depends on `batch`.

`x = log pi_old - log pi_rollout`: of the trainer's policy before the update, and of the
engine that sampled. Weights importance-sample one to the other; rejection masks what
differs too much. Nothing here has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from apportion.kernels.reference.batch import Spans, Tensor, masked_mean
from apportion.kernels.reference.bounds import bound

LIMIT = 20.0
"""Log ratios are kept within plus and minus this before they are exponentiated."""

LEVELS = ("token", "sequence", "geometric", "segment")
"""Where ratios are pooled: not, their product or geometric mean over a row, or their
geometric mean over a segment."""

RULES = (
    *(
        f"{scope}_{kind}"
        for scope in ("token", "seq_sum", "seq_mean", "seq_max")
        for kind in ("k1", "k2", "k3")
    ),
    "batch_m2",
)
"""Rejection rules: a scope and a statistic. The names are verl's but for `seq_max_k1`,
which refuses a sequence with any ratio out of bounds, and `batch_m2`, M2PO's rule."""


def _row_mean(values: Tensor, mask: Tensor, rows: Spans) -> Tensor:
    return rows.sum(values * mask) / (rows.sum(mask) + 1e-8)


def log_weight(
    log_ratio: Tensor, mask: Tensor, rows: Spans, level: str, segments: Spans | None = None
) -> Tensor:
    """`x` of a token, or pooled over its row or segment at one of `LEVELS`, `(N,)`."""
    if level == "token":
        return log_ratio
    if level == "sequence":
        return rows.spread(rows.sum(log_ratio * mask))
    spans = segments if level == "segment" and segments is not None else rows
    return spans.spread(_row_mean(log_ratio, mask, spans))


def divergence(old_log_probs: Tensor, rollout_log_probs: Tensor, kind: str) -> Tensor:
    """Of the sampler from the trainer, the token against all others, `(N,)`, as in OpenRLHF.

    `binary_kl`: `p log(p / q) + (1 - p) log((1 - p) / (1 - q))`, p the sampler's
    probability and q the trainer's, both within 1e-6 of 0 and 1; `tv`: `|p - q|`.
    """
    p, q = (bound(x.exp(), 1e-6, 1 - 1e-6) for x in (rollout_log_probs, old_log_probs))
    if kind == "tv":
        return (p - q).abs()
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def weigh(
    log_ratio: Tensor,
    mask: Tensor,
    rows: Spans,
    *,
    level: str,
    rule: str,
    low: float | None,
    high: float | None,
    gate: str,
    normalise: bool,
    segments: Spans | None = None,
    statistic: Tensor = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Importance weights `exp(x)`, `(N,)`, 0 outside the mask, and their metrics.

    `rule="truncate"` keeps weights within `[low, high]`; `"mask"` makes those zero whose
    ratio at the level `gate` is outside, and leaves the others as they are; a `statistic`
    of tokens is tested in place of the ratio, at `gate="geometric"` its mean over the row.
    With `normalise` they are divided by their mean over valid tokens, or over valid rows.
    """
    pooled = log_weight(log_ratio, mask, rows, level, segments)
    raw = bound(pooled, -LIMIT, LIMIT).exp() * mask
    if rule == "truncate":
        weights = bound(raw, low, high) * mask
    else:
        if statistic is not None:
            gated = log_weight(statistic, mask, rows, gate)
        else:
            gated = log_weight(log_ratio, mask, rows, gate, segments)
            gated = bound(gated, -LIMIT, LIMIT).exp()
        weights = torch.where(_inside(gated, low, high), raw, torch.zeros_like(raw))
    metrics = _weight_metrics(log_ratio, raw, mask, rows, level, low, high)
    if normalise:
        mean = _mean_weight(weights, mask, rows, level)
        mean = torch.where(mean > 1e-8, mean, torch.ones_like(mean))
        weights, metrics["batch_norm_factor"] = weights / mean, mean
    return weights, metrics


def _inside(values: Tensor, low: float | None, high: float | None) -> Tensor:
    return (values >= (-math.inf if low is None else low)) & (
        values <= (math.inf if high is None else high)
    )


def _mean_weight(weights: Tensor, mask: Tensor, rows: Spans, level: str) -> Tensor:
    if level in ("token", "segment"):
        return masked_mean(weights, mask)
    valid = (rows.sum(mask) > 0).to(mask.dtype)
    return (_row_mean(weights, mask, rows) * valid).sum() / valid.sum().clamp(min=1e-8)


def _weight_metrics(
    log_ratio: Tensor,
    raw: Tensor,
    mask: Tensor,
    rows: Spans,
    level: str,
    low: float | None,
    high: float | None,
) -> dict[str, Tensor]:
    """Of the weights before truncation; spread and sample size of those within the bounds.

    Without a lower bound that of the metrics is `1 / high`. Fractions and extremes of
    `sequence` and `geometric` weights are over rows, empty ones included, as verl counts.
    """
    valid = mask.bool()
    if not valid.any():
        return {}
    high = math.inf if high is None else high
    low = 1 / high if low is None else low
    kept = bound(raw, low, high)
    mean = masked_mean(kept, mask)
    by_row = _row_mean(raw, mask, rows)
    metrics = {
        "mean": masked_mean(raw, mask),
        "std": (masked_mean(kept.square(), mask) - mean.square()).clamp(min=0).sqrt(),
        "eff_sample_size": 1 / masked_mean((kept / (mean + 1e-8)).square(), mask),
        "seq_mean": by_row.mean(),
        "seq_std": by_row.std() if rows.count > 1 else by_row.new_zeros(()),
        "seq_max": by_row.max(),
        "seq_min": by_row.min(),
        "seq_max_deviation": (by_row - 1).abs().max(),
        "seq_fraction_high": (by_row > high).to(mask.dtype).mean(),
        "seq_fraction_low": (by_row < low).to(mask.dtype).mean(),
    }
    if level in ("token", "segment"):
        units = raw[valid]
        above, below = units > high, units < low
        metrics["max"], metrics["min"] = units.max(), units.min()
    else:
        summed = level == "sequence"
        logs = rows.sum(log_ratio * mask) if summed else _row_mean(log_ratio, mask, rows)
        above, below = logs > math.log(high), logs < math.log(low) if low > 0 else logs < -math.inf
        metrics["max"], metrics["min"] = logs.max().clamp(max=LIMIT).exp(), logs.min().exp()
    metrics["fraction_high"] = above.to(mask.dtype).mean()
    metrics["fraction_low"] = below.to(mask.dtype).mean()
    return metrics


def reject(
    log_ratio: Tensor, mask: Tensor, rows: Spans, rules: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mask without what a rule refuses, `(N,)`, and the shares refused.

    `rules` maps names of `RULES` to bounds; a token stays if every rule keeps it.
    Statistics are `k1 = -x`, `k2 = x^2 / 2`, `k3 = exp(x) - 1 - x`, with x within 20. The
    bounds of k1 are ratios `(low, high)` of `pi_rollout / pi_old`, the inverse of the
    weight; those of k2 and k3 are upper bounds of the statistic. `batch_m2` drops the
    tokens of largest `x^2` until the mean of the others is below the bound, all but one
    at most (M2PO, arXiv 2510.01161, as AReaL applies it).
    """
    x = bound(log_ratio, -LIMIT, LIMIT)
    statistics = {"k2": 0.5 * x.square(), "k3": x.exp() - 1 - x}
    kept, metrics = mask, {}
    for name, limits in rules.items():
        scope, kind = name.rsplit("_", 1)
        if kind == "m2":
            keep = _small_second_moment(log_ratio.square(), mask, limits)
        elif kind == "k1":
            low, high = math.log(limits[0]), math.log(limits[1])
            if scope == "seq_max":
                outside = (~_inside(-x, low, high)).to(mask.dtype)
                keep = rows.spread(rows.sum(outside * mask)) == 0
            else:
                keep = _inside(_scoped(-x, mask, rows, scope), low, high)
        else:
            keep = _scoped(statistics[kind], mask, rows, scope) <= limits
        kept = kept * keep
        metrics[f"{name}_fraction"] = masked_mean((~keep).to(mask.dtype), mask)
    metrics["fraction"] = masked_mean(mask - kept, mask)
    return kept, metrics


def _scoped(values: Tensor, mask: Tensor, rows: Spans, scope: str) -> Tensor:
    if scope == "token":
        return values
    if scope == "seq_max":
        ids = torch.arange(rows.count, device=mask.device)
        ids = rows.spread(ids) if rows.width is not None else rows.ids
        least = values.new_zeros(rows.count)  # k2 and k3 are never negative
        return rows.spread(least.scatter_reduce(0, ids, values * mask, "amax"))
    return log_weight(values, mask, rows, "sequence" if scope == "seq_sum" else "geometric")


def _small_second_moment(moments: Tensor, mask: Tensor, limit: float) -> Tensor:
    valid = mask.bool().nonzero().squeeze(-1)
    ordered, order = moments[valid].sort(descending=True, stable=True)
    rest = ordered.flip(0).cumsum(0).flip(0)
    counts = torch.arange(len(ordered), 0, -1, device=ordered.device)
    # From the first position on whose mean is small, tokens stay; the last always does.
    small = rest / counts < limit
    small[-1:] = True
    keep = torch.ones_like(mask, dtype=torch.bool)
    keep[valid[order]] = small.long().cummax(0).values.bool()
    return keep


def keep_on_policy(
    advantages: Tensor, log_ratio: Tensor, mask: Tensor, rows: Spans, threshold: float
) -> Tensor:
    """Off-policy sequence masking (DeepSeek-V3.2): 1 where a token stays, `(N,)`.

    It stays where A >= 0, or where the row's mean of `-log_ratio`, the log ratio of the
    current policy to the sampler, is at most `threshold`.
    """
    drift = -log_weight(log_ratio.detach(), mask, rows, "sequence")
    mean = drift / rows.spread(rows.sum(mask).clamp(min=1.0))
    return ((advantages >= 0) | (mean <= threshold)).to(mask.dtype)


def keep_uncertain(entropies: Tensor, mask: Tensor, share: float) -> Tensor:
    """1 for the `share` of valid tokens with the highest entropy, `(N,)` (arXiv 2506.01939).

    The threshold is the `1 - share` quantile, interpolated linearly; ties stay.
    """
    valid = mask.bool()
    ordered = entropies[valid].sort().values
    if not len(ordered):
        return mask
    position = (1 - share) * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    threshold = torch.lerp(ordered[below], ordered[above], position - below)
    return ((entropies >= threshold) & valid).to(mask.dtype)
