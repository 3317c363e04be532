"""Losses that choose tokens: by the divergence of their probability, or by covariance.

Depends on `registry`, `batch` and `losses`. A = advantage, r = ratio, l = log pi, d = log
ratio, p = pi of the token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from apportion.kernels.reference.batch import Tensor, Tokens, masked_mean
from apportion.kernels.reference.bounds import bound
from apportion.kernels.reference.losses import clip_ratio, surrogate
from apportion.kernels.reference.registry import Terms, TokenLosses, loss


@loss("dppo_tv", log_ratio_bounds=(-20.0, 20.0))
def dppo_tv(
    x: Terms,
    *,
    clip_low: Any = 0.2,
    clip_high: Any = 0.2,
    ratio_cap: float | None = 20.0,
    stop_ratio: bool = True,
) -> TokenLosses:
    """`-A stop(min(r, ratio_cap)) l` within a trust region, else 0 (arXiv 2602.04879).

    The region, in total variation of the token against all others: `p - p_old` at most
    `clip_high` where A > 0, at least `-clip_low` elsewhere. With `stop_ratio=False` the
    loss is `-A min(r, ratio_cap)` and the gradient goes through r, as in SkyRL.
    """
    moved = x.tokens.log_probs.detach().exp() - x.tokens.old_log_probs.exp()
    inside = torch.where(x.advantages > 0, _at_most(moved, clip_high), _at_most(-moved, clip_low))
    return _within_region(x, inside, ratio_cap, stop_ratio)


@loss("dppo_kl", log_ratio_bounds=(-20.0, 20.0))
def dppo_kl(
    x: Terms,
    *,
    clip_low: Any = 0.2,
    clip_high: Any = 0.2,
    ratio_cap: float | None = 20.0,
    stop_ratio: bool = True,
) -> TokenLosses:
    """`dppo_tv` with the divergence `p_old log(p_old / p) + q_old log(q_old / q)`, `q = 1 - p`.

    A token is out where that is above `clip_high` and p rose, A > 0, or above `clip_low`
    and p fell, elsewhere. 1e-8 is added to both q. `ratio_cap`, `stop_ratio`: there.
    """
    log_probs, old_log_probs = x.tokens.log_probs.detach(), x.tokens.old_log_probs
    prob, old_prob = log_probs.exp(), old_log_probs.exp()
    rest = torch.log((1 - old_prob + 1e-8) / (1 - prob + 1e-8))
    divergence = old_prob * (old_log_probs - log_probs) + (1 - old_prob) * rest
    rose = _at_most(divergence, clip_high) | (prob <= old_prob)
    fell = _at_most(divergence, clip_low) | (prob >= old_prob)
    return _within_region(x, torch.where(x.advantages > 0, rose, fell), ratio_cap, stop_ratio)


def _at_most(values: Tensor, limit: Any) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool) if limit is None else values <= limit


def _within_region(
    x: Terms, inside: Tensor, ratio_cap: float | None, stop_ratio: bool
) -> TokenLosses:
    weight = bound(x.ratio, None, ratio_cap)
    values = weight.detach() * x.tokens.log_probs if stop_ratio else weight
    indicators = {"clip_fraction": ~inside}
    if ratio_cap is not None:
        indicators["dual_clip_fraction"] = (x.ratio > ratio_cap) & inside
    return TokenLosses(-x.advantages * values * inside, indicators)


@loss("clip_cov", reads="batch")
def clip_cov(
    x: Terms,
    *,
    clip_low: Any = 0.2,
    clip_high: Any = 0.2,
    clip_scale: Any = None,
    cov_ratio: float = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
) -> TokenLosses:
    """`ppo` in which some tokens of large covariance are dropped (arXiv 2505.22617).

    `cov = (A - mean A)(l - mean l)`. Among tokens that the clip leaves and whose cov is
    between the bounds, `max(1, int(cov_ratio * n))` are drawn with the generator and
    get loss 0. Without such a token none is.
    """
    clipped = clip_ratio(x.ratio, clip_low, clip_high, clip_scale)
    values, is_clipped = surrogate(x.ratio, clipped, x.advantages)
    dropped = draw_by_covariance(x.tokens, is_clipped, cov_ratio, cov_low, cov_high)
    values = values.masked_fill(dropped > 0, 0.0)
    return TokenLosses(values, {"clip_fraction": dropped})


@loss("kl_cov", reads="batch")
def kl_cov(x: Terms, *, cov_ratio: float = 2e-4, cov_kl_coef: float = 0.1) -> TokenLosses:
    """`-A r`, plus `cov_kl_coef |d|` on the tokens of largest covariance (arXiv 2505.22617).

    These are the `max(1, int(cov_ratio * n))` tokens of largest `(A - mean A)(l - mean l)`.
    """
    distance = x.tokens.log_ratio.abs()
    penalty = cov_kl_coef * largest_by_covariance(x.tokens, cov_ratio) * distance
    return TokenLosses(-x.advantages * x.ratio + penalty, {"abs_kl": distance})


def draw_by_covariance(
    tokens: Tokens, is_clipped: Tensor, ratio: float, low: float, high: float
) -> Tensor:
    """1 for the tokens that `clip_cov` drops, `(N,)`. The host waits for their number."""
    cov = _covariance(tokens, lambda v: masked_mean(v, tokens.mask))
    eligible = (tokens.mask > 0) & (is_clipped == 0) & (cov > low) & (cov < high)
    found = eligible.nonzero().squeeze(-1)
    share = max(int(ratio * tokens.mask.sum().item()), 1)
    device = "cpu" if tokens.generator is None else tokens.generator.device
    drawn = torch.randperm(len(found), generator=tokens.generator, device=device)[:share]
    return torch.zeros_like(cov).index_fill(0, found[drawn.to(found.device)], 1.0)


def largest_by_covariance(tokens: Tokens, ratio: float) -> Tensor:
    """1 for the tokens that `kl_cov` penalises, `(N,)`. The host waits for no device."""
    if tokens.mask.device.type != "cpu":
        return largest_uncounted(tokens, ratio)
    valid = tokens.mask.nonzero().squeeze(-1)
    cov = _covariance(tokens, lambda v: v[valid].mean())
    share = min(max(1, int(len(valid) * ratio)), len(valid))
    chosen = valid[torch.topk(cov[valid], share).indices]
    return torch.zeros_like(cov).index_fill(0, chosen, 1.0)


def largest_uncounted(tokens: Tokens, ratio: float) -> Tensor:
    """As `largest_by_covariance`, from the most that there can be; ties may fall otherwise."""
    mask = tokens.mask
    count = mask.sum(dtype=torch.float64)
    cov = _covariance(tokens, lambda v: (v * mask).sum() / count.to(v.dtype))
    most = min(max(1, int(len(cov) * ratio)), len(cov))
    best = torch.topk(cov.masked_fill(mask == 0, -math.inf), most)
    share = (count * ratio).floor().clamp(min=1.0)
    chosen = (torch.arange(most, device=cov.device) < share) & (best.values > -math.inf)
    return torch.zeros_like(cov).scatter(0, best.indices, chosen.to(cov.dtype))


def _covariance(tokens: Tokens, mean: Callable[[Tensor], Tensor]) -> Tensor:
    advantages, log_probs = tokens.advantages.detach(), tokens.log_probs.detach()
    return (advantages - mean(advantages)) * (log_probs - mean(log_probs))
