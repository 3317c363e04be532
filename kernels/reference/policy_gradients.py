"""Losses without a clip in their gradient: REINFORCE, and off-policy forms of it.

Depends on `registry` and `bounds`. A = advantage, r = ratio, l = log pi, d = log ratio.
"""

from __future__ import annotations

import math

import torch

from apportion.kernels.reference.bounds import bound
from apportion.kernels.reference.losses import choose
from apportion.kernels.reference.registry import Terms, TokenLosses, loss


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


@loss("cross_entropy", loss_agg_mode="token-sum")
def cross_entropy(x: Terms) -> TokenLosses:
    """`-l`: supervised fine-tuning on the same batch; advantages are not read (SkyRL)."""
    return TokenLosses(-x.tokens.log_probs)


@loss("dro")
def dro(x: Terms, *, beta: float = 0.1) -> TokenLosses:
    """`-A l + beta d^2 / 2`: direct reward optimisation (arXiv 2405.19107), as in verl.

    With the reward less its mean as A it is also Kimi k1.5's form of mirror descent
    (arXiv 2501.12599), whose temperature is `beta`.
    """
    drift = 0.5 * beta * x.log_ratio.square()
    return TokenLosses(-x.advantages * x.tokens.log_probs + drift)


@loss("topr")
def topr(
    x: Terms, *, ratio_cap: float = 1.0, pos_weight: float = 1.0, neg_weight: float = 1.0
) -> TokenLosses:
    """Tapered off-policy REINFORCE (arXiv 2503.14286): `-A l`, where A < 0 times `min(r, cap)`.

    The cap is `ratio_cap`, and no gradient goes through r. `pos_weight` and `neg_weight`
    scale the two signs. A ratio is of a token, as in ROLL.
    """
    positive = x.advantages > 0
    tapered = bound(x.ratio.detach(), None, ratio_cap)
    weight = torch.where(positive, torch.full_like(tapered, pos_weight), neg_weight * tapered)
    is_clipped = ~positive & (x.ratio > ratio_cap)
    values = -weight * x.advantages * x.tokens.log_probs
    return TokenLosses(values, {"clip_fraction": is_clipped})


@loss("vespo", weighs_itself=True, reads="sequence")
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
