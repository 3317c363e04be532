"""A policy loss on a processor, some tokens after the others.

What is computed on the way then stays in the processor's cache, and nothing but the
gradient is kept: each piece's is taken at once. Depends on `reference`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from apportion.kernels.reference import evaluate as plain
from apportion.kernels.reference.batch import Spans, Tensor
from apportion.kernels.reference.evaluate import Metrics, Problem, Sums

TOKENS = 2**17
"""Of a piece, for each thread: torch gives a thread no less."""


def covers(problem: Problem) -> bool:
    """Whether there is more than a piece, and no token depends on others than its padded row's.

    And no setting has a gradient, as that by the log-probabilities alone is kept.
    """
    tokens = problem.tokens
    if any(isinstance(x, torch.Tensor) and x.requires_grad for x in problem.settings()):
        return False
    on_processor = tokens.mask.device.type == "cpu" and not torch.compiler.is_compiling()
    if not on_processor or len(tokens.mask) <= _most() or problem.keep is not None:
        return False
    if problem.level == "token" and problem.entry.reads == "token":
        return True
    in_row = problem.level in ("token", "sequence") and problem.entry.reads != "batch"
    return in_row and tokens.rows.width is not None


def evaluate(problem: Problem) -> tuple[Tensor, Metrics]:
    """As `reference.evaluate`, for problems that are covered."""
    tokens = problem.tokens
    lengths = tokens.rows.sum(tokens.mask)
    row_weights = problem.aggregation.of_lengths(lengths, tokens.rows)
    differentiated = torch.is_grad_enabled() and tokens.log_probs.requires_grad
    sums, gradient = _sums(problem, row_weights, differentiated)
    loss = sums.loss
    if differentiated:
        loss = _Attached.apply(tokens.log_probs, loss, gradient, problem, row_weights)
    return loss, plain.means(sums, lengths.sum(), tokens.rows.count)


def _sums(
    problem: Problem, row_weights: Tensor, differentiated: bool
) -> tuple[Sums, Tensor | None]:
    """The sums over all pieces, and the gradient by the log-probabilities, `(N,)`."""
    found, gradients = [], []
    for piece, weights in _pieces(problem, row_weights):
        own = piece.tokens.log_probs.requires_grad_(differentiated)
        with torch.set_grad_enabled(differentiated):
            sums = plain.summed(piece, weights)
        if differentiated:
            gradients.append(torch.autograd.grad(sums.loss, own)[0])
        found.append(sums)
    return _added(found), torch.cat(gradients) if differentiated else None


def _added(parts: list[Sums]) -> Sums:
    def add(values: list[Tensor]) -> Tensor:
        return torch.stack(values).detach().sum(0)

    return Sums(
        add([part.loss for part in parts]),
        {name: add([part.of_tokens[name] for part in parts]) for name in parts[0].of_tokens},
        {name: add([part.of_rows[name] for part in parts]) for name in parts[0].of_rows},
    )


def _pieces(problem: Problem, row_weights: Tensor) -> Iterator[tuple[Problem, Tensor]]:
    """Problems of consecutive tokens, and their weights; rows that are padded stay whole."""
    tokens = problem.tokens
    for at, rows, of_rows in _cuts(tokens.rows, len(tokens.mask), _most()):
        mask = tokens.mask[at]
        piece = replace(problem, tokens=replace(tokens, mask=mask, rows=rows))
        yield plain.masked(piece, at), rows.scaled(mask, row_weights[of_rows])


def _most() -> int:
    return TOKENS * int(torch.get_num_threads())


def _cuts(rows: Spans, size: int, most: int) -> Iterator[tuple[slice, Spans, slice]]:
    """Tokens, their rows, and which of all rows these are."""
    if rows.width is None:
        for start in range(0, size, most):
            at = slice(start, start + most)
            yield at, Spans(rows.count, ids=rows.ids[at]), slice(None)
        return
    step = max(most // rows.width, 1)
    for first in range(0, rows.count, step):
        count = min(step, rows.count - first)
        at = slice(first * rows.width, (first + count) * rows.width)
        yield at, Spans(count, width=rows.width), slice(first, first + count)


class _Attached(torch.autograd.Function):
    """The loss, whose gradient is known."""

    @staticmethod
    def forward(
        ctx: Any,
        log_probs: Tensor,
        loss: Tensor,
        gradient: Tensor,
        problem: Problem,
        row_weights: Tensor,
    ) -> Tensor:
        ctx.gradient, ctx.problem, ctx.row_weights = gradient, problem, row_weights
        ctx.save_for_backward(log_probs)  # so that torch sees what has changed or is freed
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        problem: Problem = ctx.problem
        (log_probs,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated itself
            tokens = replace(problem.tokens, log_probs=log_probs)
            loss, _ = plain.evaluate(plain.masked(replace(problem, tokens=tokens)))
            (own,) = torch.autograd.grad(loss, log_probs, upstream, create_graph=True)
        else:
            gradient, ctx.gradient = ctx.gradient, None  # whoever asks may write to it
            if gradient is None:
                _, gradient = _sums(problem, ctx.row_weights, differentiated=True)
            own = gradient.mul_(upstream).to(log_probs.dtype)
        return own, None, None, None, None
