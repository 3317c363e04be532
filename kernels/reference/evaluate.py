"""One policy loss from start to end, in plain torch.

Depends on the other modules of this folder. `Problem` holds everything that a call has
settled; `evaluate` computes loss and metrics from it. The kernels take the same `Problem`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from apportion.kernels.reference.aggregate import Aggregation
from apportion.kernels.reference.batch import Tensor, Tokens, pooled_log_ratio
from apportion.kernels.reference.kl import Penalty
from apportion.kernels.reference.registry import Loss, Terms
from apportion.kernels.reference.selection import Selection

Metrics = dict[str, Tensor]

CLIPS = ("clip_low", "clip_high", "clip_scale")
"""Options that may have a value for each token."""


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
    is_raw: bool = False
    """Values outside the mask, and float types, are as they came: `masked` is to be called."""

    def settings(self) -> list[Any]:
        """Numbers, but the widths of clips; as a rule no tensors."""
        own = [value for name, value in self.options.items() if name not in CLIPS]
        return [*own, self.kl_coef, *(self.log_ratio_bounds or ())]


def masked(problem: Problem, at: slice | None = None) -> Problem:
    """The problem with constants outside the mask, in one float type.

    With `at`, the mask and the rows are those of these tokens already, and the other tensors
    are cut to them and detached.
    """
    tokens = problem.tokens
    select = Selection(tokens.mask)

    def of(values: Any, constant: float = 0.0) -> Any:
        if not isinstance(values, torch.Tensor) or not values.dim():
            return values
        return select(values if at is None else values.detach()[at], constant)

    own = replace(
        tokens,
        log_probs=of(tokens.log_probs),
        old_log_probs=of(tokens.old_log_probs),
        advantages=of(tokens.advantages),
        rollout_weights=of(tokens.rollout_weights, 1.0),
    )
    return replace(
        problem,
        tokens=own,
        options={name: of(value, 1.0) for name, value in problem.options.items()},
        ref_log_probs=of(problem.ref_log_probs),
        is_raw=False,
    )


def terms_of(problem: Problem) -> Terms:
    """What the loss is made of."""
    tokens = problem.tokens
    log_ratio = pooled_log_ratio(
        tokens, problem.level, problem.ratio_grad, problem.log_ratio_bounds
    )
    return Terms(tokens, log_ratio, log_ratio.exp())


@dataclass(frozen=True)
class Sums:
    """A loss, and sums whose means are its metrics; of all tokens, or of a piece of them."""

    loss: Tensor
    of_tokens: Metrics
    of_rows: Metrics


def evaluate(problem: Problem) -> tuple[Tensor, Metrics]:
    """The loss, a scalar, and detached metrics."""
    tokens = problem.tokens
    sums = summed(problem, problem.aggregation.weights(tokens.mask, tokens.rows))
    return sums.loss, means(sums, tokens.mask.sum(), tokens.rows.count)


def summed(problem: Problem, weights: Tensor) -> Sums:
    """The sum of the losses of tokens, each times its weight, and those of the metrics."""
    tokens, terms = problem.tokens, terms_of(problem)
    result = problem.entry.formula(terms, **problem.options)
    values = result.values
    if problem.keep is not None:
        values = values * problem.keep
    if tokens.rollout_weights is not None and not problem.entry.weighs_itself:
        values = values * tokens.rollout_weights
    log_ratio = terms.log_ratio if problem.level == "token" else tokens.log_ratio
    sums = Sums(values, {"approx_kl": -_total(log_ratio, tokens.mask)}, {})
    for name, indicator in result.indicators.items():
        own = indicator.detach().to(log_ratio.dtype)
        if result.by_row:
            sums.of_rows[name] = tokens.row_mean(own).sum()
        else:
            sums.of_tokens[name] = _total(own, tokens.mask)
    if problem.penalty is not None:
        penalty = problem.penalty(tokens.log_probs, problem.ref_log_probs)
        sums.of_tokens["kl"] = _total(penalty, tokens.mask)
        factor = terms.ratio if problem.kl_times_ratio else 1.0
        values = values + problem.kl_coef * penalty * factor
    return replace(sums, loss=(values * weights).sum())


def means(sums: Sums, tokens: Tensor, rows: int) -> Metrics:
    """Metrics from their sums and the number of valid tokens, as verl's: 0 if all is masked."""
    of_tokens = {name: total / (tokens + 1e-8) for name, total in sums.of_tokens.items()}
    return of_tokens | {name: total / rows for name, total in sums.of_rows.items()}


def _total(values: Tensor, mask: Tensor) -> Tensor:
    return (values.detach() * mask).sum()
