"""Which losses the token kernel computes, and what it is told of each. Torch alone.

The others, which choose tokens among those of the call or have one value a row, stay with
plain torch on every device: `sequence_ppo`, `clip_cov`, `kl_cov`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from apportion.kernels.reference.evaluate import Problem


@dataclass(frozen=True)
class Surrogate:
    """A surrogate of `token_loss_kernel`: its name, constants, and what its flags count."""

    name: str
    constants: tuple[float, ...] = ()
    flags: tuple[str, ...] = ()
    row_term: str = ""
    """The TERM of `seg_reduce_kernel` whose row values it reads."""


Options = Mapping[str, Any]


def _clipped(own: Options) -> Surrogate:
    dual = own.get("dual_clip") is not None
    flags = ("clip_fraction", "dual_clip_fraction") if dual else ("clip_fraction",)
    return Surrogate("ppo", flags=flags)


def _cispo(own: Options) -> Surrogate:
    dropped = own["outside"] == "drop"
    return Surrogate("cispo_drop" if dropped else "cispo", flags=("clip_fraction",))


def _region(name: str) -> Callable[[Options], Surrogate]:
    def surrogate(own: Options) -> Surrogate:
        capped = own["ratio_cap"] is not None
        flags = ("clip_fraction", "dual_clip_fraction") if capped else ("clip_fraction",)
        return Surrogate(f"{name}_stop" if own["stop_ratio"] else name, flags=flags)

    return surrogate


def _policy_gradient(own: Options) -> Surrogate:
    return Surrogate("policy_gradient", (1 / (1 + own.get("tau", 0.0)),))


def _topr(own: Options) -> Surrogate:
    return Surrogate("topr", (own["pos_weight"], own["neg_weight"]), ("clip_fraction",))


def _vespo(own: Options) -> Surrogate:
    names = ("k_pos", "lambda_pos", "k_neg", "lambda_neg")
    return Surrogate("vespo", tuple(own[name] for name in names), row_term="vespo")


SURROGATES: dict[str, Callable[[Options], Surrogate]] = {
    "ppo": _clipped,
    "gspo": _clipped,
    "luspo": _clipped,
    "cispo": _cispo,
    "sapo": lambda own: Surrogate("sapo", (own["tau_pos"], own["tau_neg"])),
    "geo_mean": lambda own: Surrogate(
        "geometric", flags=("clip_fraction", "clip_fraction_lower"), row_term="geometric"
    ),
    "gpg": _policy_gradient,
    "reinforce": _policy_gradient,
    "opmd": _policy_gradient,
    "cross_entropy": lambda own: Surrogate("cross_entropy"),
    "dro": lambda own: Surrogate("dro", (own["beta"],)),
    "topr": _topr,
    "vespo": _vespo,
    "dppo_tv": _region("dppo_tv"),
    "dppo_kl": _region("dppo_kl"),
}


def covers(problem: Problem) -> bool:
    """Whether the kernels compute this problem.

    They do not where a number is a tensor, which only the device knows, and not GMPO with
    a pooled or bounded ratio.
    """
    if problem.entry.name not in SURROGATES:
        return False
    per_token = ("clip_low", "clip_high", "clip_scale")
    numbers = [value for name, value in problem.options.items() if name not in per_token]
    if any(isinstance(value, torch.Tensor) for value in (*numbers, problem.kl_coef)):
        return False
    plain = problem.level == "token" and problem.log_ratio_bounds is None
    return problem.entry.name != "geo_mean" or plain


def limits(bounds: tuple[float | None, float | None] | None) -> tuple[float, float]:
    """Bounds as numbers, infinite where there is none."""
    low, high = (None, None) if bounds is None else bounds
    return -math.inf if low is None else low, math.inf if high is None else high
