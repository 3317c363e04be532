"""Losses of a clipped ratio: one function each, from ratios and advantages to token losses.

Depends on `registry` and `bounds`. A = advantage, r = ratio, l = log pi, d = log ratio.
Weights of the sampler's mismatch multiply the result, unless the loss weighs itself.
"""

from __future__ import annotations

from typing import Any

import torch

from apportion.kernels.reference.bounds import Tensor, bound, exceeds, larger, smaller
from apportion.kernels.reference.registry import Terms, TokenLosses, loss


def scaled(width: Any, scale: Any) -> Any:
    """A clip width times the clip scale; `None` is no bound."""
    return width if width is None or scale is None else width * scale


def clip_ratio(ratio: Tensor, low: Any, high: Any, scale: Any) -> Tensor:
    """`r` within `[1 - low * scale, 1 + high * scale]`."""
    low, high = scaled(low, scale), scaled(high, scale)
    return bound(ratio, None if low is None else 1 - low, None if high is None else 1 + high)


def on_bound(ratio: Tensor, low: Any, high: Any, cap: float | None) -> Tensor:
    """Whether `r` is `1 - low`, `1 + high` or `cap`; `None` is no bound."""
    found = torch.zeros_like(ratio, dtype=torch.bool)
    for edge in (
        None if low is None else 1 - low,
        None if high is None else 1 + high,
        cap,
    ):
        if edge is not None:
            found = found | (ratio == edge)
    return found


def surrogate(ratio: Tensor, clipped: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """`max(-A r, -A clipped)`, `clipped` being r within bounds; and 1 where that is larger.

    Where it is larger r is out of bounds, so there is no gradient; elsewhere it is `-A`.
    """
    values, is_clipped = _Surrogate.apply(ratio, clipped.detach(), -advantages)
    return values, is_clipped


def capped_surrogate(
    ratio: Tensor, clipped: Tensor, advantages: Tensor, cap: Any
) -> tuple[Tensor, Tensor]:
    """`surrogate`, r in the first term at most `cap`, which may be within the bounds."""
    first, second = -advantages * bound(ratio, None, cap), -advantages * clipped
    return larger(first, second), exceeds(second, first)


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ratio: Tensor, clipped: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        first, second = slope * ratio, slope * clipped
        is_clipped = exceeds(second, first)
        ctx.mark_non_differentiable(is_clipped)
        ctx.save_for_backward(slope, is_clipped)
        return torch.maximum(first, second), is_clipped

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
        slope, is_clipped = ctx.saved_tensors
        return upstream * (slope * (1.0 - is_clipped)), None, None


def choose(condition: Tensor, yes: float, no: float, like: Tensor) -> Tensor:
    """Numbers by condition; `torch.where` would round them to float32."""
    return torch.full_like(like, no, requires_grad=False).masked_fill(condition, yes)


@loss("ppo", log_ratio_bounds=(-20.0, 20.0))
def ppo(
    x: Terms,
    *,
    clip_low: Any = 0.2,
    clip_high: Any = 0.2,
    clip_scale: Any = None,
    dual_clip: float | None = None,
    ratio_cap: float | None = None,
) -> TokenLosses:
    """`max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))` (arXiv 1707.06347).

    `clip_scale` multiplies both widths (A2TGPO). `dual_clip` c: where A < 0, at most
    `-A c` (arXiv 1912.09729). `ratio_cap` caps r in the first term (TRL's `delta`).
    At r on a bound, and where the two terms tie, the gradient is that of `-A r`.
    """
    clipped = clip_ratio(x.ratio, clip_low, clip_high, clip_scale)
    if ratio_cap is None:
        values, is_clipped = surrogate(x.ratio, clipped, x.advantages)
    else:
        values, is_clipped = capped_surrogate(x.ratio, clipped, x.advantages, ratio_cap)
    indicators = {"clip_fraction": is_clipped}
    if dual_clip is not None:
        # Where A >= 0 the loss is at most 0, and below the limit anyhow.
        most = x.advantages.abs() * dual_clip
        indicators["dual_clip_fraction"] = exceeds(values, most)
        values = smaller(values, most)
    return TokenLosses(values, indicators)


@loss(
    "gspo",
    ratio="sequence",
    log_ratio_bounds=(None, 10.0),
    loss_agg_mode="seq-mean-token-mean",
)
def gspo(
    x: Terms, *, clip_low: Any = 3e-4, clip_high: Any = 4e-4, clip_scale: Any = None
) -> TokenLosses:
    """`ppo` with the ratio of a sequence, `r = exp(mean d)` (arXiv 2507.18071).

    With `ratio="turn"` the mean is over a turn and the clip scale adapts the bounds:
    A2TGPO's loss, whose widths are 3e-3 and 4e-3. An empty row contributes nothing.
    """
    return ppo(x, clip_low=clip_low, clip_high=clip_high, clip_scale=clip_scale)


@loss("luspo", ratio="sequence", ratio_grad="mean", loss_agg_mode="seq-mean-token-sum")
def luspo(
    x: Terms,
    *,
    clip_low: Any = 0.2,
    clip_high: Any = 0.2,
    clip_scale: Any = None,
    ratio_cap: float | None = None,
) -> TokenLosses:
    """`ppo` with the ratio of a sequence, times its length (arXiv 2602.05261).

    The length is the aggregation's: a sequence's token losses are summed, not averaged.
    """
    return ppo(
        x, clip_low=clip_low, clip_high=clip_high, clip_scale=clip_scale, ratio_cap=ratio_cap
    )


@loss(
    "sequence_ppo",
    reads="sequence",
    ratio="sequence",
    ratio_grad="mean",
    log_ratio_bounds=(None, 10.0),
    loss_agg_mode="seq-mean-token-mean",
    count_rows="all",
)
def sequence_ppo(
    x: Terms, *, clip_low: Any = 0.1, clip_high: Any = 0.1, clip_scale: Any = None
) -> TokenLosses:
    """A3's loss: one `max(-A r, -A clip(r))` a row, of its mean d and its mean A.

    The gradient goes through the mean log ratio. An empty row counts, with loss 0.
    Clip fractions are of rows.
    """
    advantages = x.tokens.rows.spread(x.tokens.row_mean(x.advantages))
    clipped = clip_ratio(x.ratio, clip_low, clip_high, clip_scale)
    values, is_clipped = surrogate(x.ratio, clipped, advantages)
    return TokenLosses(values, {"clip_fraction": is_clipped}, by_row=True)


@loss("sapo", log_ratio_bounds=(-20.0, 20.0), loss_agg_mode="seq-mean-token-mean")
def sapo(x: Terms, *, tau_pos: float = 1.0, tau_neg: float = 1.05) -> TokenLosses:
    """`-A (4 / tau) sigmoid(tau (r - 1))`, a soft gate in place of the clip (arXiv 2511.20347).

    tau is `tau_pos` where A > 0, else `tau_neg`. At r = 1 the gradient is -A.
    """
    tau = choose(x.advantages > 0, tau_pos, tau_neg, x.ratio)
    return TokenLosses(-x.advantages * torch.sigmoid(tau * (x.ratio - 1)) * 4 / tau)


@loss("cispo", log_ratio_bounds=(-20.0, 20.0))
def cispo(
    x: Terms,
    *,
    clip_low: Any = 0.2,
    clip_high: Any = 0.2,
    clip_scale: Any = None,
    ratio_cap: float | None = None,
    outside: str = "clip",
) -> TokenLosses:
    """`-stop(clip(r)) A l`: the clipped ratio is a weight, every token keeps a gradient.

    arXiv 2506.13585. The bounds are `1 - clip_low`, `1 + clip_high`, either `None` for
    none, and `ratio_cap`, which is the bound itself (TRL's `epsilon_high`). With
    `outside="drop"` a ratio on or beyond a bound weighs 0 (SkyRL's `rollout_is`).
    """
    weight = bound(clip_ratio(x.ratio, clip_low, clip_high, clip_scale), None, ratio_cap)
    is_clipped = weight != x.ratio
    if outside == "drop":
        low, high = scaled(clip_low, clip_scale), scaled(clip_high, clip_scale)
        is_clipped = is_clipped | on_bound(x.ratio, low, high, ratio_cap)
        weight = weight.masked_fill(is_clipped, 0.0)
    values = -weight.detach() * x.advantages * x.tokens.log_probs
    return TokenLosses(values, {"clip_fraction": is_clipped})


@loss(
    "geo_mean",
    reads="sequence",
    loss_agg_mode="seq-mean-token-mean",
    row_eps=1e-8,
    weighs_itself=True,
)
def geo_mean(x: Terms, *, clip_low: Any = 0.4, clip_high: Any = 0.4) -> TokenLosses:
    """GMPO: `-A R`, R the geometric mean of a row's clipped ratios (arXiv 2507.20673).

    `R = exp(mean u)`, `u = d`, but at most `clip_high` where A > 0 and at least
    `-clip_low` where A < 0: the widths are in log space. Where A = 0, u = 0. Rollout
    weights enter as their geometric mean over the row. An empty row counts in verl's mean,
    with 0 (`count_rows="all"`, which `like="verl"` sets), and does not here.
    """
    tokens, sign = x.tokens, torch.sign(x.advantages)
    clipped = bound(x.log_ratio, None if clip_low is None else -clip_low, clip_high)
    least = sign * torch.minimum(sign * x.log_ratio, sign * clipped)
    pooled = tokens.row_mean(least, 1e-8).exp()
    if tokens.rollout_weights is not None:
        logs = torch.log(tokens.rollout_weights + 1e-10)
        pooled = pooled * tokens.row_mean(logs, 1e-8).exp()
    outside = clipped != x.log_ratio
    indicators = {
        "clip_fraction": outside & (sign > 0),
        "clip_fraction_lower": outside & (sign < 0),
    }
    return TokenLosses(-x.advantages * tokens.rows.spread(pooled), indicators)
