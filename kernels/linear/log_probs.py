"""Log-probabilities and entropy of a head's tokens, and gradients. Torch and the row operators.

Forward: logits of some tokens over the whole vocabulary at a time. Backward, two ways:

- recompute: slab after slab of the vocabulary, logits are computed again, replaced by their
  gradient, and multiplied from both sides. Each slab of the head's gradient is written
  once, in the head's type; that of the hidden states is summed in float32. Four products.
- frozen, where the head has no gradient: the forward pass keeps for each token
  `u = d log_prob / d hidden`, as large as the hidden states, and the backward pass scales it
  by the gradient of `log_prob`, whatever the loss. Two products. Where the entropy has a
  gradient too, it recomputes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

from apportion.kernels.linear.matmul import accumulate, has_wide_results, project
from apportion.kernels.linear.plan import Plan, make_plan, slices
from apportion.kernels.log_probs import row_grad, row_stats
from apportion.kernels.reference.batch import Tensor
from apportion.kernels.reference.row import Row, accumulated_in


@dataclass(frozen=True)
class Head:
    """A head and what is asked of it.

    Attributes:
        weight: `(V, H)`.
        bias: `(V,)` or `None`.
        targets: `(N,)`, int64.
        temperature: a number, or `(N,)`.
        softcap: `None` for none.
        batch_invariant: see `kernels.reference.row`.
    """

    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    temperature: Any
    softcap: float | None
    batch_invariant: bool = False

    def plan(self, hidden: Tensor, budget: int) -> Plan:
        """Sizes of the pieces of hidden states, for `budget` bytes of logits at a time."""
        vocabulary, width = self.weight.shape
        sizes = len(hidden), vocabulary, width, logit_bytes(hidden)
        return make_plan(*sizes, budget, self.batch_invariant)

    def logits(self, hidden: Tensor, out: Tensor, columns: slice = slice(None)) -> Tensor:
        """Logits of some tokens in some columns, `(n, columns)`, in the memory of `out`."""
        weight, count = self.weight[columns], len(hidden)
        bias = None if self.bias is None else self.bias[columns]
        if self.batch_invariant and len(weight) == len(self.weight):
            # A product of the same shape, however many tokens there are.
            hidden = pad(hidden, (0, 0, 0, len(out) // len(weight) - count))
        logits = out[: len(hidden) * len(weight)].view(len(hidden), len(weight))
        project(hidden, weight, bias, logits)
        return logits[:count]

    def row(self, at: slice, first: int = 0) -> Row:
        """How the row operators read the logits of the tokens `at`, from column `first`."""
        each = isinstance(self.temperature, torch.Tensor)
        return Row(
            targets=self.targets[None, at],
            mask=None,
            temperature=self.temperature[None, at] if each else self.temperature,
            softcap=self.softcap,
            vocab_offset=first,
            vocab_size=len(self.weight),
            batch_invariant=self.batch_invariant,
        )


def logit_bytes(hidden: Tensor) -> int:
    """Of one logit; on a GPU half-precision gradients stand beside float32 logits."""
    if hidden.dtype == torch.float64:
        return 8
    return 6 if hidden.is_cuda and hidden.dtype != torch.float32 else 4


def stats(logits: Tensor, row: Row, with_entropy: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, log-sum and entropy of rows `(n, V)`; each `(n,)`."""
    log_probs, lse, entropy = row_stats(logits[None], row, with_entropy)
    return log_probs[0], lse[0], entropy[0] if with_entropy else torch.zeros_like(lse[0])


def gradient(
    logits: Tensor,
    row: Row,
    saved: tuple[Tensor, Tensor],
    dlog_probs: Tensor,
    dentropy: Any,
    like: Tensor,
) -> Tensor:
    """The gradient of logits `(n, V)`, in the type that is multiplied with `like`.

    In the memory of the logits, unless the matrix units take it in half precision.
    """
    lse, entropy = saved[0][None], saved[1][None]
    bend = None if dentropy is None else dentropy[None]
    upstream = (dlog_probs[None], torch.zeros_like(lse), bend)
    half = has_wide_results(like)
    out = torch.empty_like(logits, dtype=like.dtype) if half else logits
    row_grad(logits[None], row, (lse, entropy), upstream, out[None])
    return out


def times(factor: Tensor, other: Tensor, kind: Any) -> Tensor:
    """`factor other`, summed in `kind`."""
    total = factor.new_empty((len(factor), other.shape[1]), dtype=kind)
    accumulate(total, factor, other, first=True)
    return total


def by_rows(
    hidden: Tensor, head: Head, plan: Plan, frozen: bool, with_entropy: bool
) -> tuple[list[Tensor], Tensor | None]:
    """Log-probabilities, log-sums and entropies, `(N,)` each, of hidden states `(N, H)`.

    And, where `frozen`, the gradient by `hidden` of each log-probability. Without entropy
    the third are 0.
    """
    kind = accumulated_in(hidden)
    # What stays comes first, so that an allocator can give back what is behind it.
    found = [hidden.new_empty(len(hidden), dtype=kind) for _ in range(3)]
    unit = hidden.new_empty(hidden.shape) if frozen else None
    out = hidden.new_empty(plan.rows * len(head.weight), dtype=kind)
    for at in slices(len(hidden), plan.rows):
        logits, row = head.logits(hidden[at], out), head.row(at)
        for whole, part in zip(found, stats(logits, row, with_entropy), strict=True):
            whole[at] = part
        if unit is not None:
            saved, one = (found[1][at], found[2][at]), torch.ones_like(found[0][at])
            grad = gradient(logits, row, saved, one, None, hidden)
            unit[at] = times(grad, head.weight, kind)
    return found, unit


def by_slabs(
    hidden: Tensor,
    head: Head,
    plan: Plan,
    saved: tuple[Tensor, Tensor],
    upstream: tuple[Tensor, Tensor | None],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of hidden states, weight and bias, as far as they are `wanted`.

    `saved` are log-sums and entropies; `upstream` the gradients of log-probabilities and
    entropies, the second `None` where it is 0.
    """
    kind, weight = accumulated_in(hidden), head.weight
    out = hidden.new_empty(plan.tile * plan.slab, dtype=kind)
    by_hidden = hidden.new_zeros(hidden.shape, dtype=kind) if wanted[0] else None
    by_weight = torch.empty_like(weight) if wanted[1] else None
    by_bias = torch.empty_like(head.bias) if wanted[2] else None
    dlog_probs, dentropy = upstream
    for columns in slices(len(weight), plan.slab):
        size = columns.stop - columns.start
        weight_sum = None if by_weight is None else by_weight[columns].to(kind)
        if weight_sum is not None and not len(hidden):
            weight_sum.zero_()
        bias_sum = hidden.new_zeros(size, dtype=kind) if wanted[2] else None
        for at in slices(len(hidden), plan.tile):
            logits = head.logits(hidden[at], out, columns)
            bend = None if dentropy is None else dentropy[at]
            row, own = head.row(at, columns.start), (saved[0][at], saved[1][at])
            grad = gradient(logits, row, own, dlog_probs[at], bend, hidden)
            if bias_sum is not None:
                bias_sum += grad.sum(0, dtype=kind)
            if by_hidden is not None:
                accumulate(by_hidden[at], grad, weight[columns])
            if weight_sum is not None:
                accumulate(weight_sum, grad.t(), hidden[at], first=at.start == 0)
        if by_weight is not None and weight.dtype != kind:
            by_weight[columns] = weight_sum
        if by_bias is not None:
            by_bias[columns] = bias_sum
    return None if by_hidden is None else by_hidden.to(hidden.dtype), by_weight, by_bias
