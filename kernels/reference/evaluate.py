"""One policy loss from start to end, in plain torch.

Depends on the other modules of this folder. `Problem` holds everything that a call has
settled; `evaluate` computes loss and metrics from it. The kernels take the same `Problem`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apportion.kernels.reference.aggregate import Aggregation
from apportion.kernels.reference.batch import Tensor, Tokens, masked_mean, pooled_log_ratio
from apportion.kernels.reference.kl import Penalty
from apportion.kernels.reference.registry import Loss, Terms, TokenLosses

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """A policy loss to be computed: checked arguments, and settings without defaults."""

    entry: Loss
    options: Mapping[str, Any]
    """Of the loss: numbers, `None`, or tensors `(N,)`."""
    tokens: Tokens
    level: str
    ratio_grad: str
    log_ratio_bounds: tuple[float | None, float | None] | None
    aggregation: Aggregation
    keep: Tensor = None
    """1 for tokens that rules outside the loss leave in, or `None`."""
    penalty: Penalty | None = None
    kl_coef: float = 0.0
    kl_times_ratio: bool = False
    ref_log_probs: Tensor = None


def terms_of(problem: Problem) -> Terms:
    """What the loss is made of."""
    tokens = problem.tokens
    log_ratio = pooled_log_ratio(
        tokens, problem.level, problem.ratio_grad, problem.log_ratio_bounds
    )
    return Terms(tokens, log_ratio, log_ratio.exp())


def evaluate(problem: Problem) -> tuple[Tensor, Metrics]:
    """The loss, a scalar, and detached metrics."""
    tokens, terms = problem.tokens, terms_of(problem)
    result = problem.entry.formula(terms, **problem.options)
    values = result.values
    if problem.keep is not None:
        values = values * problem.keep
    if tokens.rollout_weights is not None and not problem.entry.weighs_itself:
        values = values * tokens.rollout_weights
    metrics = _metrics(terms, result, problem.level)
    if problem.penalty is not None:
        penalty = problem.penalty(tokens.log_probs, problem.ref_log_probs)
        metrics["kl"] = masked_mean(penalty.detach(), tokens.mask)
        factor = terms.ratio if problem.kl_times_ratio else 1.0
        values = values + problem.kl_coef * penalty * factor
    weights = problem.aggregation.weights(tokens.mask, tokens.rows)
    return (values * weights).sum(), metrics


def _metrics(terms: Terms, result: TokenLosses, level: str) -> Metrics:
    tokens = terms.tokens
    ratio = (terms.log_ratio if level == "token" else tokens.log_ratio).detach()
    metrics = {"approx_kl": masked_mean(-ratio, tokens.mask)}
    for name, indicator in result.indicators.items():
        values = indicator.detach().to(ratio.dtype)
        if result.by_row:
            metrics[name] = tokens.row_mean(values).mean()
        else:
            metrics[name] = masked_mean(values, tokens.mask)
    return metrics
