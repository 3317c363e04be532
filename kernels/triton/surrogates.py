"""Which losses the token kernel computes, and what it is told of each. Torch alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from apportion.kernels.reference.batch import Tensor
from apportion.kernels.reference.evaluate import Problem
from apportion.kernels.reference.losses import clip_ratio, surrogate
from apportion.kernels.reference.registry import Terms
from apportion.kernels.reference.trust_regions import draw_by_covariance, largest_by_covariance

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Surrogate:
    """A surrogate of `token_loss_kernel`: its name, constants, and metrics."""

    name: str
    constants: tuple[float, ...] = ()
    metrics: tuple[str, ...] = ()
    row_term: str = ""
    """The TERM of `seg_reduce_kernel` whose row values it reads."""
    by_row: bool = False
    """Metrics are means over rows."""
    chooses: Callable[[Terms, Options], Tensor] | None = None
    """1 for the tokens that it treats otherwise, `(N,)`, in torch: they depend on all others."""


def _clipped(own: Options) -> Surrogate:
    dual = own.get("dual_clip") is not None
    metrics = ("clip_fraction", "dual_clip_fraction") if dual else ("clip_fraction",)
    return Surrogate("ppo", metrics=metrics)


def _cispo(own: Options) -> Surrogate:
    dropped = own["outside"] == "drop"
    return Surrogate("cispo_drop" if dropped else "cispo", metrics=("clip_fraction",))


def _drawn(x: Terms, own: Options) -> Tensor:
    clipped = clip_ratio(x.ratio, own["clip_low"], own["clip_high"], own["clip_scale"])
    _, is_clipped = surrogate(x.ratio, clipped, x.advantages)
    return draw_by_covariance(
        x.tokens, is_clipped, own["cov_ratio"], own["cov_low"], own["cov_high"]
    )


def _largest(x: Terms, own: Options) -> Tensor:
    return largest_by_covariance(x.tokens, own["cov_ratio"])


def _region(name: str) -> Callable[[Options], Surrogate]:
    def surrogate(own: Options) -> Surrogate:
        capped = own["ratio_cap"] is not None
        metrics = ("clip_fraction", "dual_clip_fraction") if capped else ("clip_fraction",)
        return Surrogate(f"{name}_stop" if own["stop_ratio"] else name, metrics=metrics)

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
    "sequence_ppo": lambda own: Surrogate(
        "row_ppo", metrics=("clip_fraction",), row_term="advantage", by_row=True
    ),
    "clip_cov": lambda own: Surrogate("clip_cov", metrics=("clip_fraction",), chooses=_drawn),
    "kl_cov": lambda own: Surrogate(
        "kl_cov", (own["cov_kl_coef"],), metrics=("abs_kl",), chooses=_largest
    ),
    "cispo": _cispo,
    "sapo": lambda own: Surrogate("sapo", (own["tau_pos"], own["tau_neg"])),
    "geo_mean": lambda own: Surrogate(
        "geometric", metrics=("clip_fraction", "clip_fraction_lower"), row_term="geometric"
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

    They do not where a number is a tensor, which may have a gradient of its own, and which
    the host, that passes numbers by value, would wait for. Nor GMPO with a pooled ratio: its
    mean of clipped ratios would be a mean of means, with two ways back, and no trainer asks
    for it.
    """
    if any(isinstance(value, torch.Tensor) for value in problem.settings()):
        return False
    name = problem.entry.name
    return name in SURROGATES and (name != "geo_mean" or problem.level == "token")


def limits(bounds: tuple[float | None, float | None] | None) -> tuple[float, float]:
    """Bounds as numbers, infinite where there is none."""
    low, high = (None, None) if bounds is None else bounds
    return -math.inf if low is None else low, math.inf if high is None else high
