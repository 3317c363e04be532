"""Weights and rejection where the sampler's policy is not the trainer's. Needs torch.

What they return goes into `apportion.policy_loss`, as `rollout_weights` and `mask`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.errors import OptionError
from apportion.loss.inputs import Given, check_choice, check_number, check_options

# isort: split
# inputs comes first: it says what to install where torch is missing.
from apportion.kernels.reference import rollout

Tensor = Any
Metrics = dict[str, Tensor]


def rollout_weights(
    old_log_probs: Tensor,
    rollout_log_probs: Tensor,
    mask: Tensor,
    *,
    level: str = "token",
    rule: str = "truncate",
    low: float | None = None,
    high: float | None = 2.0,
    gate: str = "token",
    statistic: str = "ratio",
    normalise: bool = False,
    offsets: Tensor | None = None,
    turns: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Importance weights of the trainer's policy over the sampler's, detached.

    `exp(x)` of a token, or of x pooled: its sum over a sequence (`level="sequence"`), or
    its mean over a sequence (`"geometric"`) or a turn (`"segment"`), with
    `x = old_log_probs - rollout_log_probs` within 20; 0 outside the mask. With
    `old_log_probs` of the policy before the update this is decoupled PPO.

    Args:
        old_log_probs: of the policy before the update, `(B, T)`, or `(N,)` with `offsets`.
        rollout_log_probs: as the sampler gave them.
        mask: which tokens are trained.
        level: `"token"`, `"sequence"`, `"geometric"` or `"segment"`.
        rule: `"truncate"` to the bounds, or `"mask"`: 0 where the ratio is outside.
        low: least ratio, `None` for none.
        high: largest ratio, `None` for none.
        gate: for `rule="mask"`, which ratio is tested: as `level`.
        statistic: for `rule="mask"`, what is tested against `low` and `high`: the
            `"ratio"`, or the `"binary_kl"` or `"tv"` divergence of the sampler from the
            trainer, of a `"token"` or in the mean of a sequence (`gate="geometric"`).
        normalise: divide by the mean weight.
        offsets: starts of the sequences in packed tokens.
        turns: an id for each token, for `"segment"`; default: runs of the mask.

    Returns:
        Weights in the shape given, and metrics.
    """
    check_choice("level", level, rollout.LEVELS)
    check_choice("rule", rule, ("truncate", "mask"))
    check_choice("gate", gate, rollout.LEVELS)
    check_choice("statistic", statistic, ("ratio", "binary_kl", "tv"))
    check_number("low", low, least=0.0, none=True)
    check_number("high", high, above=0.0, none=True)
    check_number("high", high, least=low or 0.0, none=True)
    if statistic != "ratio" and (rule != "mask" or gate not in ("token", "geometric")):
        raise OptionError(
            f"statistic: got {statistic!r} with rule {rule!r} and gate {gate!r}, "
            "expected rule 'mask' and gate 'token' or 'geometric'"
        )
    given = Given(old_log_probs, mask, offsets, None)
    before = given.own.detach()
    sampler = given.take("rollout_log_probs", rollout_log_probs).detach()
    pooled = "segment" in (level, gate)
    weights, metrics = rollout.weigh(
        before - sampler,
        given.mask,
        given.rows,
        level=level,
        rule=rule,
        low=low,
        high=high,
        gate=gate,
        normalise=normalise,
        segments=given.segments("turn", turns, None) if pooled else None,
        statistic=None if statistic == "ratio" else rollout.divergence(before, sampler, statistic),
    )
    return weights.reshape(given.shape), metrics


def rollout_rejection(
    old_log_probs: Tensor,
    rollout_log_probs: Tensor,
    mask: Tensor,
    rules: Mapping[str, Any],
    *,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The mask without tokens or sequences on which sampler and trainer differ too much.

    `rules` maps verl's names, such as `"token_k1"` or `"seq_mean_k3"`, to bounds, and all
    must hold. k1 takes `(low, high)`, ratios of the sampler's probability to the trainer's,
    or `high` alone for `(1 / high, high)`; k2 and k3 an upper bound. `"batch_m2"` bounds
    the mean of squared log ratios over the batch (M2PO). See
    `apportion.kernels.reference.rollout.reject`.

    Returns:
        The reduced mask, in the shape and type of `mask`, and the shares refused.
    """
    if not isinstance(rules, Mapping):
        got = type(rules).__name__
        raise OptionError(f"rules: got {got}, expected a mapping from names to bounds")
    check_options("rollout_rejection rule", rules, rollout.RULES)
    bounds = {}
    for name, limit in rules.items():
        pair = limit if isinstance(limit, tuple | list) else (None, limit)
        if len(pair) != 2 or (pair[0] is not None and not name.endswith("k1")):
            raise OptionError(f"rules[{name!r}]: got {limit!r}, expected one upper bound")
        check_number(f"rules[{name!r}]", pair[1], above=0.0)
        if name.endswith("k1"):
            pair = (1 / pair[1] if pair[0] is None else pair[0], pair[1])
            check_number(f"rules[{name!r}]", pair[0], above=0.0, most=pair[1])
        bounds[name] = tuple(pair) if name.endswith("k1") else pair[1]
    given = Given(old_log_probs, mask, offsets, None)
    ratio = (given.own - given.take("rollout_log_probs", rollout_log_probs)).detach()
    kept, metrics = rollout.reject(ratio, given.mask, given.rows, bounds)
    return kept.reshape(given.shape).to(given.mask_dtype), metrics
