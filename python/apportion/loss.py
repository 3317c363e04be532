"""The policy loss: log-probabilities and credit in, one differentiable number out.

Needs torch (`pip install 'apportion[torch]'`); `import apportion` alone does not import
it. Arguments are checked here, and every formula is in `apportion.kernels.reference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from apportion.credit import Credit
from apportion.errors import InputError, OptionError
from apportion.loss_inputs import Given, check_choice, check_number, check_options

# isort: split
# loss_inputs comes first: it says what to install where torch is missing.
import torch

from apportion.kernels.reference import batch as spans
from apportion.kernels.reference import kl, registry, rollout
from apportion.kernels.reference import losses as _formulas  # noqa: F401 (registers them)
from apportion.kernels.reference.aggregate import MODES, Aggregation
from apportion.loss_presets import PRESETS

Tensor = Any
Metrics = dict[str, Tensor]

AROUND: dict[str, Any] = {
    "ratio": "token",
    "ratio_grad": "token",
    "log_ratio_bounds": None,
    "loss_agg_mode": "token-mean",
    "dp_size": 1,
    "scale_factor": None,
    "count_rows": "valid",
    "row_eps": 0.0,
    "count_floor": 1.0,
    "kl_coef": 0.0,
    "kl_kind": "k3",
    "kl_times_ratio": False,
    "off_policy_threshold": None,
    "top_entropy": None,
}
"""Options that every loss takes, with their defaults; a loss may have others."""

PER_TOKEN = ("clip_low", "clip_high", "clip_scale")


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor | Credit,
    mask: Tensor,
    *,
    loss: str | None = None,
    like: str | None = None,
    offsets: Tensor | None = None,
    turns: Tensor | str | None = None,
    ref_log_probs: Tensor | None = None,
    rollout_log_probs: Tensor | None = None,
    rollout_weights: Tensor | None = None,
    entropies: Tensor | None = None,
    generator: Any = None,
    num_tokens: float | None = None,
    num_sequences: float | None = None,
    **options: Any,
) -> tuple[Tensor, Metrics]:
    """The loss of a policy on sampled tokens, and metrics without a gradient.

    Whatever stands outside the mask, NaN included, reaches neither value nor gradient.
    Computed in float32, in float64 where `log_probs` is.

    Args:
        log_probs: of the policy that is trained, `(B, T)`, or `(N,)` with `offsets`.
        old_log_probs: of the policy that the ratio is taken to, of the same shape.
        advantages: of each token, or `(B,)` of each sequence, or a `Credit`, whose
            clip scale, loss mask and turns are then used too.
        mask: which tokens are trained: booleans, or 0 and 1.
        loss: a name in `apportion.losses()`, default `"ppo"`; with `like`, the trainer's
            own name for it, default the trainer's.
        like: `"verl"`, `"trl"`, `"openrlhf"` or `"skyrl"`: that trainer's settings,
            exactly. Options override them.
        offsets: `(B + 1,)` starts of the sequences in packed tokens.
        turns: for `ratio="turn"`: an id for each token; or `"equal-advantages"`, runs of
            one advantage. Default: the credit's turns, else runs of the mask.
        ref_log_probs: of the reference policy; needed where `kl_coef` is not 0.
        rollout_log_probs: as the sampler gave them, for `off_policy_threshold`.
        rollout_weights: `apportion.rollout_weights`, multiplying the token losses.
        entropies: of each token; needed by `top_entropy`.
        generator: a `torch.Generator` for `clip_cov`, which draws tokens.
        num_tokens: valid tokens of the whole batch, over micro-batches and ranks.
        num_sequences: its sequences. With both, micro-batches' losses add up.
        **options: those of the loss (`apportion.losses()[name].options`), and:
            `ratio`: `"token"`, `"turn"` or `"sequence"`; `ratio_grad`: `"token"` or
            `"mean"`, how a pooled ratio is differentiated; `log_ratio_bounds`;
            `loss_agg_mode`, `dp_size`, `scale_factor`, `count_rows`, `row_eps`,
            `count_floor`: see `docs/loss.md`; `kl_coef`, `kl_kind`, `kl_times_ratio`:
            a KL penalty added to the token losses; `off_policy_threshold`: off-policy
            sequence masking; `top_entropy`: the share of tokens that is trained.
            `clip_low`, `clip_high` and `clip_scale` may be given for each token.

    Returns:
        The loss, a scalar, and metrics by name, each a detached scalar on the device:
        `approx_kl` and what the loss reports, such as `clip_fraction`.

    Raises:
        OptionError: unknown loss, trainer or option, or a value out of its range.
        InputError: shapes, types, devices or a mask that do not fit.
    """
    entry, settings = _settings(loss, like, options)
    given = Given(log_probs, mask, offsets, advantages)
    tokens = spans.Tokens(
        log_probs=given.own,
        old_log_probs=given.take("old_log_probs", old_log_probs).detach(),
        advantages=given.advantages(),
        mask=given.mask,
        rows=given.rows,
        turns=given.turns(turns) if settings["ratio"] == "turn" else None,
        rollout_weights=given.maybe("rollout_weights", rollout_weights, fill=1.0),
        generator=generator,
    )
    around, own = _split(entry, settings, given)
    log_ratio = spans.pooled_log_ratio(
        tokens, around["ratio"], around["ratio_grad"], around["log_ratio_bounds"]
    )
    terms = registry.Terms(tokens, log_ratio, log_ratio.exp())
    result = entry.formula(terms, **own)
    sampler = given.maybe("rollout_log_probs", rollout_log_probs)
    values = _kept(result.values, tokens, around, sampler, given.maybe("entropies", entropies))
    if tokens.rollout_weights is not None and not entry.weighs_itself:
        values = values * tokens.rollout_weights
    metrics = _metrics(terms, result, around["ratio"])
    if sampler is not None:
        metrics["rollout_kl"] = spans.masked_mean(sampler - tokens.old_log_probs, tokens.mask)
    if around["kl_coef"]:
        estimate = _penalty(around["kl_kind"], like)
        reference = given.take("ref_log_probs", ref_log_probs).detach()
        penalty = estimate(tokens.log_probs, reference)
        metrics["kl"] = spans.masked_mean(penalty.detach(), tokens.mask)
        factor = terms.ratio if around["kl_times_ratio"] else 1.0
        values = values + around["kl_coef"] * penalty * factor
    weights = _aggregation(around, num_tokens, num_sequences).weights(tokens.mask, tokens.rows)
    return (values * weights).sum(), metrics


def losses() -> Mapping[str, registry.Loss]:
    """Every policy loss by name: its options with defaults, and its documentation."""
    return dict(registry.LOSSES)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float | None = 0.2,
    offsets: Tensor | None = None,
    num_tokens: float | None = None,
    num_sequences: float | None = None,
    **aggregation: Any,
) -> tuple[Tensor, Metrics]:
    """A critic's loss: `max((v - G)^2, (clip(v, old - clip, old + clip) - G)^2) / 2`.

    Shapes, mask and aggregation as in `policy_loss`. `clip=None` clips nothing. The metric
    `clip_fraction` is the share of tokens where the clipped term is the larger.
    """
    names = ("loss_agg_mode", "dp_size", "scale_factor", "count_rows", "row_eps", "count_floor")
    check_options("value_loss", aggregation, names)
    check_number("clip", clip, least=0.0, none=True)
    around = {name: aggregation.get(name, AROUND[name]) for name in names}
    given = Given(values, mask, offsets, returns)
    target, before = given.advantages("returns"), given.take("old_values", old_values).detach()
    first = (given.own - target).square()
    loss, fraction = first, torch.zeros_like(first)
    if clip is not None:
        second = (given.own.clamp(before - clip, before + clip) - target).square()
        loss, fraction = torch.maximum(first, second), (second > first).to(first.dtype)
    weights = _aggregation(around, num_tokens, num_sequences).weights(given.mask, given.rows)
    metrics = {"clip_fraction": spans.masked_mean(fraction, given.mask)}
    return 0.5 * (loss * weights).sum(), metrics


def aggregate(
    token_losses: Tensor,
    mask: Tensor,
    *,
    offsets: Tensor | None = None,
    num_tokens: float | None = None,
    num_sequences: float | None = None,
    **aggregation: Any,
) -> Tensor:
    """Token losses of your own as one number, by any `loss_agg_mode`; see `policy_loss`."""
    names = ("loss_agg_mode", "dp_size", "scale_factor", "count_rows", "row_eps", "count_floor")
    check_options("aggregate", aggregation, names)
    around = {name: aggregation.get(name, AROUND[name]) for name in names}
    given = Given(token_losses, mask, offsets, None)
    weights = _aggregation(around, num_tokens, num_sequences).weights(given.mask, given.rows)
    return (given.own * weights).sum()


def kl_penalty(
    log_probs: Tensor, ref_log_probs: Tensor, kind: str = "k3", *, like: str | None = None
) -> Tensor:
    """An estimate of the KL divergence from the reference for each token, any shape.

    Args:
        log_probs: of the policy.
        ref_log_probs: of the reference, of the same shape.
        kind: `"k1"`, `"abs"`, `"k2"` or `"k3"`, or verl's names for them. A `+` behind it
            takes the value of the estimator and the gradient of `k2`.
        like: whose clamps: `"verl"` (the default), `"trl"`, `"openrlhf"` or `"skyrl"`.
    """
    if getattr(log_probs, "shape", None) != getattr(ref_log_probs, "shape", None):
        raise InputError(
            f"ref_log_probs: got shape {getattr(ref_log_probs, 'shape', None)}, "
            f"expected {getattr(log_probs, 'shape', None)} as log_probs"
        )
    return _penalty(kind, like)(log_probs, ref_log_probs)


def _settings(
    loss: str | None, like: str | None, options: Mapping[str, Any]
) -> tuple[registry.Loss, dict[str, Any]]:
    """The loss, and every setting: defaults, then the loss's, the preset's and yours."""
    preset: Mapping[str, Any] = {}
    if like is not None:
        check_choice("like", like, PRESETS)
        name = next(iter(PRESETS[like])) if loss is None else loss
        check_choice(f"loss (like={like!r})", name, PRESETS[like])
        name, preset = PRESETS[like][name]
    else:
        name = "ppo" if loss is None else loss
        check_choice("loss", name, registry.LOSSES)
    entry = registry.LOSSES[name]
    options = {k: v.item() if isinstance(v, np.generic) else v for k, v in options.items()}
    known = {**AROUND, **entry.options}
    check_options(f"loss {name!r}", options, known)
    return entry, {**known, **entry.around, **preset, **options}


def _split(
    entry: registry.Loss, settings: dict[str, Any], given: Given
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of `policy_loss` itself, and of the loss, all checked."""
    around = {name: settings[name] for name in AROUND}
    check_choice("ratio", around["ratio"], spans.LEVELS)
    check_choice("ratio_grad", around["ratio_grad"], ("token", "mean"))
    check_choice("loss_agg_mode", around["loss_agg_mode"], MODES)
    check_choice("count_rows", around["count_rows"], ("valid", "all"))
    check_number("kl_coef", around["kl_coef"])
    check_number("off_policy_threshold", around["off_policy_threshold"], none=True)
    check_number("top_entropy", around["top_entropy"], above=0.0, most=1.0, none=True)
    bounds = around["log_ratio_bounds"]
    if bounds is not None and (not isinstance(bounds, tuple | list) or len(bounds) != 2):
        raise OptionError(f"log_ratio_bounds: got {bounds!r}, expected (low, high) or None")
    if bounds is not None and None not in bounds and not bounds[0] < bounds[1]:
        raise OptionError(f"log_ratio_bounds: got {bounds!r}, expected low below high")
    own = {name: settings[name] for name in entry.options}
    for name in PER_TOKEN:
        if name in own:
            own[name] = given.bound(name, own[name])
    for name in ("tau_pos", "tau_neg", "ratio_cap", "cov_ratio"):
        check_number(name, own.get(name), above=0.0, none=True)
    check_number("dual_clip", own.get("dual_clip"), above=1.0, none=True)
    return around, own


def _kept(
    values: Tensor,
    tokens: spans.Tokens,
    around: Mapping[str, Any],
    sampler: Tensor | None,
    entropies: Tensor | None,
) -> Tensor:
    """Token losses without tokens that an off-policy or entropy rule leaves out."""
    if around["off_policy_threshold"] is not None:
        ratio = tokens.log_ratio if sampler is None else tokens.log_probs - sampler
        values = values * rollout.keep_on_policy(
            tokens.advantages, ratio, tokens.mask, tokens.rows, around["off_policy_threshold"]
        )
    if around["top_entropy"] is not None:
        if entropies is None:
            raise InputError("entropies: got none, expected them where top_entropy is given")
        values = values * rollout.keep_uncertain(
            entropies.detach(), tokens.mask, around["top_entropy"]
        )
    return values


def _metrics(terms: registry.Terms, result: registry.TokenLosses, level: str) -> Metrics:
    tokens = terms.tokens
    ratio = (terms.log_ratio if level == "token" else tokens.log_ratio).detach()
    metrics = {"approx_kl": spans.masked_mean(-ratio, tokens.mask)}
    for name, indicator in result.indicators.items():
        values = indicator.detach().to(ratio.dtype)
        if result.by_row:
            metrics[name] = tokens.row_mean(values).mean()
        else:
            metrics[name] = spans.masked_mean(values, tokens.mask)
    return metrics


def _penalty(kind: str, like: str | None) -> kl.Penalty:
    if not isinstance(kind, str) or not kl.is_kind(kind):
        known = ", ".join([*kl.KINDS, *kl.ALIASES])
        raise OptionError(f"kl_kind: got {kind!r}, expected one of {known}, or one with a '+'")
    if like is not None:
        check_choice("like", like, kl.PRESETS)
    clamps = kl.PRESETS["verl" if like is None else like]
    return kl.Penalty(kind, clamps.input_bound, clamps.output_bound, clamps.bound_all)


def _aggregation(
    around: Mapping[str, Any], num_tokens: float | None, num_sequences: float | None
) -> Aggregation:
    check_choice("loss_agg_mode", around["loss_agg_mode"], MODES)
    check_number("dp_size", around["dp_size"], above=0.0)
    check_number("scale_factor", around["scale_factor"], above=0.0, none=True)
    check_number("row_eps", around["row_eps"], least=0.0)
    check_number("count_floor", around["count_floor"], least=0.0)
    for name, count in (("num_tokens", num_tokens), ("num_sequences", num_sequences)):
        check_number(name, count, above=0.0, none=True)
    if around["dp_size"] != 1:
        needed = "num_tokens" if around["loss_agg_mode"] == "token-mean" else "num_sequences"
        count = num_tokens if needed == "num_tokens" else num_sequences
        if count is None and around["loss_agg_mode"] not in (
            "token-sum",
            "seq-mean-token-sum-norm",
        ):
            raise OptionError(f"{needed}: got none, expected the whole batch's where dp_size > 1")
    return Aggregation(
        mode=around["loss_agg_mode"],
        num_tokens=num_tokens,
        num_sequences=num_sequences,
        dp_size=around["dp_size"],
        scale_factor=around["scale_factor"],
        count_rows=around["count_rows"],
        row_eps=around["row_eps"],
        count_floor=around["count_floor"],
    )
