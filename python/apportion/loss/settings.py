"""Settings of a policy loss: defaults, presets and yours, checked. Needs torch; part of `loss`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from apportion.errors import InputError, OptionError
from apportion.kernels.reference import batch as spans
from apportion.kernels.reference import kl, registry
from apportion.kernels.reference import losses as _losses  # noqa: F401 (registers them)
from apportion.kernels.reference import policy_gradients as _gradients  # noqa: F401
from apportion.kernels.reference import trust_regions as _regions  # noqa: F401
from apportion.kernels.reference.aggregate import MODES, Aggregation
from apportion.kernels.reference.evaluate import CLIPS
from apportion.loss.inputs import Given, check_choice, check_flag, check_number, check_options
from apportion.loss.presets import PRESETS

Tensor = Any

AGGREGATION: dict[str, Any] = {
    "loss_agg_mode": "token-mean",
    "dp_size": 1,
    "scale_factor": None,
    "count_rows": "valid",
    "row_eps": 0.0,
    "count_floor": 1.0,
    "num_prompts": None,
    "prompt_tokens": None,
}
"""Options of the aggregation, with their defaults."""

AROUND: dict[str, Any] = {
    "ratio": "token",
    "ratio_grad": "token",
    "log_ratio_bounds": None,
    **AGGREGATION,
    "kl_coef": 0.0,
    "kl_kind": "k3",
    "kl_times_ratio": False,
    "off_policy_threshold": None,
    "top_entropy": None,
}
"""Options that every loss takes, with their defaults; a loss may have others."""

ABOVE_ZERO = ("tau_pos", "tau_neg", "ratio_cap", "cov_ratio", "beta")
NUMBERS = (
    *("k_pos", "lambda_pos", "k_neg", "lambda_neg", "pos_weight", "neg_weight"),
    *("cov_low", "cov_high", "cov_kl_coef", "tau"),
)


def settle(
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


def around(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `policy_loss` itself, checked."""
    own = {name: settings[name] for name in AROUND}
    check_choice("ratio", own["ratio"], spans.LEVELS)
    check_choice("ratio_grad", own["ratio_grad"], ("token", "mean"))
    check_number("kl_coef", own["kl_coef"])
    check_flag("kl_times_ratio", own["kl_times_ratio"])
    check_number("off_policy_threshold", own["off_policy_threshold"], none=True)
    check_number("top_entropy", own["top_entropy"], above=0.0, most=1.0, none=True)
    bounds = own["log_ratio_bounds"]
    if bounds is not None and (not isinstance(bounds, (tuple, list)) or len(bounds) != 2):
        raise OptionError(f"log_ratio_bounds: got {bounds!r}, expected (low, high) or None")
    for bound in bounds or ():
        check_number("log_ratio_bounds", bound, none=True)
    if bounds is not None and None not in bounds and not bounds[0] < bounds[1]:
        raise OptionError(f"log_ratio_bounds: got {bounds!r}, expected low below high")
    return own


def loss_options(entry: registry.Loss, settings: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """The settings of the loss, checked; clip widths and scale as numbers or flat tensors."""
    own = {name: settings[name] for name in entry.options}
    for name in CLIPS:
        if name in own:
            own[name] = given.bound(name, own[name])
    cap = own.get("ratio_cap")
    if getattr(cap, "shape", None):
        own["ratio_cap"] = cap = given.bound("ratio_cap", cap)
    for name in ABOVE_ZERO:
        if name != "ratio_cap" or not getattr(cap, "shape", None):
            check_number(name, own.get(name), above=0.0, none=True)
    for name in NUMBERS:
        check_number(name, own.get(name), none=True)
    check_number("dual_clip", own.get("dual_clip"), above=1.0, none=True)
    check_flag("stop_ratio", own.get("stop_ratio", True))
    if "outside" in own:
        check_choice("outside", own["outside"], ("clip", "drop"))
    low = own.get("clip_low")
    if isinstance(low, (int, float)) and isinstance(cap, (int, float)) and cap < 1 - low:
        raise OptionError(f"ratio_cap: got {cap!r}, expected at least 1 - clip_low, {1 - low}")
    if own.get("cov_low") is not None and not own["cov_low"] < own["cov_high"]:
        raise OptionError(f"cov_high: got {own['cov_high']!r}, expected above {own['cov_low']!r}")
    return own


def penalty(kind: str, like: str | None) -> kl.Penalty:
    """An estimator with the clamps of a trainer, by default verl's."""
    if not isinstance(kind, str) or not kl.is_kind(kind):
        known = ", ".join([*kl.KINDS, *kl.ALIASES])
        raise OptionError(f"kl_kind: got {kind!r}, expected one of {known}, or one with a '+'")
    if like is not None:
        check_choice("like", like, kl.PRESETS)
    clamps = kl.PRESETS["verl" if like is None else like]
    return kl.Penalty(kind, clamps.input_bound, clamps.output_bound, clamps.bound_all)


def aggregation(
    settings: Mapping[str, Any],
    given: Given,
    num_tokens: float | None,
    num_sequences: float | None,
) -> Aggregation:
    """How token losses become one number; counts that the mode needs must be there."""
    own = {**AGGREGATION, **{k: settings[k] for k in AGGREGATION if k in settings}}
    mode = own.pop("loss_agg_mode")
    check_choice("loss_agg_mode", mode, MODES)
    check_choice("count_rows", own["count_rows"], ("valid", "all"))
    check_number("dp_size", own["dp_size"], above=0.0)
    check_number("scale_factor", own["scale_factor"], above=0.0, none=True)
    check_number("row_eps", own["row_eps"], least=0.0)
    check_number("count_floor", own["count_floor"], least=0.0)
    counts: dict[str, Any] = {"num_tokens": num_tokens, "num_sequences": num_sequences}
    for name, count in (*counts.items(), ("num_prompts", own["num_prompts"])):
        check_number(name, count, above=0.0, none=True)
    needed = None
    if own["dp_size"] != 1 and mode not in ("token-sum", "seq-mean-token-sum-norm", "prompt-mean"):
        needed = "num_tokens" if mode == "token-mean" else "num_sequences"
    if needed is not None and counts[needed] is None:
        raise OptionError(f"{needed}: got none, expected the whole batch's where dp_size > 1")
    if mode == "prompt-mean":
        if own["num_prompts"] is None:
            raise OptionError("num_prompts: got none, expected the whole batch's for prompt-mean")
        own["prompt_tokens"] = given.rows_of("prompt_tokens", own["prompt_tokens"])
    return Aggregation(mode, **counts, **own)


def reference(given: Given, kl_coef: float, ref_log_probs: Tensor) -> Tensor:
    """The reference's log-probabilities, where the penalty needs them."""
    if kl_coef and ref_log_probs is None:
        raise InputError(
            f"ref_log_probs: got none, expected shape {tuple(given.shape)} where kl_coef is not 0"
        )
    return given.maybe("ref_log_probs", ref_log_probs) if kl_coef else None
