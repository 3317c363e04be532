"""A head's log-probabilities and a loss of them, in one pass over the logits.

A piece is some tokens whose logits are held at a time, and whose loss depends on no other
token. So while its logits are there, the loss says how it changes with their
log-probabilities, and the logits become their gradient: three products instead of four.
The gradient of the head is summed in float32 over the pieces. Torch and `log_probs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from apportion.kernels.linear.log_probs import Head, gradient, stats, times
from apportion.kernels.linear.matmul import accumulate
from apportion.kernels.reference.batch import Tensor
from apportion.kernels.reference.row import accumulated_in

Slope = Callable[[slice, Tensor, Tensor], tuple[Tensor, Any]]
Value = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss of the log-probabilities and entropies of a head's tokens.

    Attributes:
        pieces: consecutive tokens, whose losses do not depend on each other.
        slope: of the tokens of a piece, their log-probabilities and entropies `(n,)`: the
            gradients of the loss by both, the second `None` where it is 0.
        value: of all tokens: the loss.
    """

    pieces: Sequence[slice]
    slope: Slope
    value: Value


@torch.compiler.disable
def loss_and_entropy(hidden: Tensor, head: Head, objective: Objective) -> tuple[Tensor, Tensor]:
    """The loss, differentiable once; and the entropy of each token, `(N,)`, without a gradient."""
    loss, entropy = _LinearLoss.apply(hidden, head.weight, head.bias, head, objective)
    return loss, entropy


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        objective: Objective,
    ) -> tuple[Tensor, Tensor]:
        kind = accumulated_in(hidden)
        most = max((at.stop - at.start for at in objective.pieces), default=0)
        out = hidden.new_empty(most * len(weight), dtype=kind)
        found = hidden.new_empty((2, len(hidden)), dtype=kind)
        sums = _Sums(hidden, weight, bias, ctx.needs_input_grad, kind)
        for at in objective.pieces:
            logits, row = head.logits(hidden[at], out), head.row(at)
            log_probs, lse, entropy = stats(logits, row)
            found[0, at], found[1, at] = log_probs, entropy
            dlog_probs, dentropy = objective.slope(at, log_probs, entropy)
            sums.add(at, gradient(logits, row, (lse, entropy), dlog_probs, dentropy, hidden))
        ctx.grads = sums.finished()
        log_probs, entropy = found.unbind()
        ctx.mark_non_differentiable(entropy)
        return objective.value(log_probs, entropy), entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dloss: Tensor, *_: Any) -> tuple[Any, ...]:
        if ctx.grads is None:
            raise RuntimeError(
                "linear_policy_loss: its gradient can be taken once, expected mode='recompute' "
                "where it is taken again"
            )
        grads, ctx.grads = ctx.grads, None
        return *(None if grad is None else grad.mul_(dloss) for grad in grads), None, None


class _Sums:
    """Gradients of hidden states, weight and bias, as far as they are wanted."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Any, kind: Any
    ) -> None:
        self.hidden, self.weight = hidden, weight
        self.by_hidden = torch.zeros_like(hidden) if wanted[0] else None
        empty = torch.empty_like if len(hidden) else torch.zeros_like
        self.by_weight = empty(weight, dtype=kind) if wanted[1] else None
        self.by_bias = torch.zeros_like(bias, dtype=kind) if wanted[2] else None

    def add(self, at: slice, grad: Tensor) -> None:
        """The gradient of a piece's logits, `(n, V)`."""
        kind = accumulated_in(self.hidden)
        if self.by_bias is not None:
            self.by_bias += grad.sum(0, dtype=kind)
        if self.by_hidden is not None:
            self.by_hidden[at] = times(grad, self.weight, kind)
        if self.by_weight is not None:
            accumulate(self.by_weight, grad.t(), self.hidden[at], first=at.start == 0)

    def finished(self) -> tuple[Tensor | None, ...]:
        """In the types of what they are gradients of."""
        pairs = ((self.by_weight, self.weight.dtype), (self.by_bias, self.weight.dtype))
        heads = [None if x is None else x.to(like) for x, like in pairs]
        return self.by_hidden, *heads
