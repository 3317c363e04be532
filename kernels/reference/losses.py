"""Every policy loss: one function each, from ratios and advantages to token losses.

Depends on `registry` and `batch`. A = advantage, r = ratio, l = log pi, d = log ratio.
Weights of the sampler's mismatch multiply the result, unless the loss weighs itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from apportion.kernels.reference.batch import Tensor, Tokens, bound, masked_mean
from apportion.kernels.reference.registry import Terms, TokenLosses, loss


def scaled(width: Any, scale: Any) -> Any:
    """A clip width times the clip scale; `None` is no bound."""
    return width if width is None or scale is None else width * scale


def clip_ratio(ratio: Tensor, low: Any, high: Any, scale: Any) -> Tensor:
    """`r` within `[1 - low * scale, 1 + high * scale]`."""
    low, high = scaled(low, scale), scaled(high, scale)
    return bound(ratio, None if low is None else 1 - low, None if high is None else 1 + high)


def surrogate(ratio: Tensor, clipped: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """`max(-A r, -A clipped)`, and where the second is the larger."""
    first, second = -advantages * ratio, -advantages * clipped
    return torch.maximum(first, second), second > first


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
    values, is_clipped = surrogate(bound(x.ratio, None, ratio_cap), clipped, x.advantages)
    indicators = {"clip_fraction": is_clipped}
    if dual_clip is not None:
        negative, most = x.advantages < 0, -x.advantages * dual_clip
        indicators["dual_clip_fraction"] = negative & (values > most)
        values = torch.where(negative, torch.minimum(values, most), values)
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


@loss(
    "sequence_ppo",
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
) -> TokenLosses:
    """`-stop(clip(r)) A l`: the clipped ratio is a weight, every token keeps a gradient.

    arXiv 2506.13585. The bounds are `1 - clip_low`, `1 + clip_high`, either `None` for
    none, and `ratio_cap`, which is the bound itself (TRL's `epsilon_high`).
    """
    weight = bound(clip_ratio(x.ratio, clip_low, clip_high, clip_scale), None, ratio_cap)
    values = -weight.detach() * x.advantages * x.tokens.log_probs
    return TokenLosses(values, {"clip_fraction": weight != x.ratio})


@loss(
    "geo_mean",
    loss_agg_mode="seq-mean-token-mean",
    count_rows="all",
    row_eps=1e-8,
    weighs_itself=True,
)
def geo_mean(x: Terms, *, clip_low: Any = 0.4, clip_high: Any = 0.4) -> TokenLosses:
    """GMPO: `-A R`, R the geometric mean of a row's clipped ratios (arXiv 2507.20673).

    `R = exp(mean u)`, `u = d`, but at most `clip_high` where A > 0 and at least
    `-clip_low` where A < 0: the widths are in log space. Where A = 0, u = 0. Rollout
    weights enter as their geometric mean over the row. An empty row counts, with 0.
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


@loss("gpg")
def gpg(x: Terms) -> TokenLosses:
    """`-A l`, no ratio (group policy gradient, arXiv 2504.02546)."""
    return TokenLosses(-x.advantages * x.tokens.log_probs)


@loss("reinforce", loss_agg_mode="seq-mean-token-sum")
def reinforce(x: Terms) -> TokenLosses:
    """`-A l`, summed over a sequence; with rollout weights, importance-sampled REINFORCE."""
    return gpg(x)


@loss("opmd")
def opmd(x: Terms, *, tau: float = 1.0) -> TokenLosses:
    """`-A l / (1 + tau)`: R3L's form of online policy mirror descent; no ratio, no clip."""
    return TokenLosses(-x.advantages * x.tokens.log_probs / (1 + tau))


@loss("vespo", weighs_itself=True)
def vespo(
    x: Terms,
    *,
    k_pos: float = 2.0,
    lambda_pos: float = 3.0,
    k_neg: float = 3.0,
    lambda_neg: float = 2.0,
) -> TokenLosses:
    """`-stop(phi(w)) A l` with `phi = exp(lambda + k log w - lambda w)`, as in TRL.

    `log w` is the sum of a row's log ratios, each within 20, and of the logs of its
    rollout weights, within `[log 1e-8, 20]`. k and lambda depend on the sign of A.
    """
    tokens, least = x.tokens, math.log(1e-8)
    logs = bound(tokens.log_ratio.detach(), -20.0, 20.0)
    if tokens.rollout_weights is not None:
        logs = logs + bound(torch.log(tokens.rollout_weights), least, 20.0)
    log_weight = tokens.rows.spread(bound(tokens.rows.sum(logs * tokens.mask), least, 20.0))
    positive = x.advantages >= 0
    k = choose(positive, k_pos, k_neg, x.ratio)
    rate = choose(positive, lambda_pos, lambda_neg, x.ratio).clamp(min=1e-4)
    phi = torch.exp(rate + k * log_weight - rate * log_weight.exp())
    phi = phi.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return TokenLosses(-phi * x.advantages * tokens.log_probs)


@loss("clip_cov")
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
    tokens = x.tokens
    clipped = clip_ratio(x.ratio, clip_low, clip_high, clip_scale)
    values, is_clipped = surrogate(x.ratio, clipped, x.advantages)
    cov = _covariance(tokens, lambda v: masked_mean(v, tokens.mask))
    eligible = (tokens.mask > 0) & ~is_clipped & (cov > cov_low) & (cov < cov_high)
    found = eligible.nonzero().squeeze(-1)
    share = max(int(cov_ratio * tokens.mask.sum().item()), 1)
    device = "cpu" if tokens.generator is None else tokens.generator.device
    drawn = torch.randperm(len(found), generator=tokens.generator, device=device)[:share]
    kept = torch.ones_like(values).index_fill(0, found[drawn.to(found.device)], 0.0)
    return TokenLosses(values * kept, {"clip_fraction": kept == 0})


@loss("kl_cov")
def kl_cov(x: Terms, *, cov_ratio: float = 2e-4, cov_kl_coef: float = 0.1) -> TokenLosses:
    """`-A r`, plus `cov_kl_coef |d|` on the tokens of largest covariance (arXiv 2505.22617).

    These are the `max(1, int(cov_ratio * n))` tokens of largest `(A - mean A)(l - mean l)`.
    """
    tokens = x.tokens
    valid = tokens.mask.bool().nonzero().squeeze(-1)
    share = max(1, int(len(valid) * cov_ratio)) if len(valid) else 0
    cov = _covariance(tokens, lambda v: v[valid].mean())
    largest = valid[torch.topk(cov[valid], share).indices]
    chosen = torch.zeros_like(cov).index_fill(0, largest, 1.0)
    distance = tokens.log_ratio.abs()
    values = -x.advantages * x.ratio + cov_kl_coef * chosen * distance
    return TokenLosses(values, {"abs_kl": distance})


def _covariance(tokens: Tokens, mean: Callable[[Tensor], Tensor]) -> Tensor:
    advantages, log_probs = tokens.advantages.detach(), tokens.log_probs.detach()
    return (advantages - mean(advantages)) * (log_probs - mean(log_probs))
