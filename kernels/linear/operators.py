"""The operators `apportion::linear_log_probs` and `apportion::linear_log_probs_grad`.

What `log_probs` computes, registered with torch, so that it can be traced, compiled and
differentiated once. With a mask they leave the other tokens out themselves: no size of a
result depends on values. Arguments are checked before, in `apportion.loss.head`.
"""

from __future__ import annotations

from typing import Any

import torch

from apportion.kernels.linear.log_probs import Head, by_rows, by_slabs
from apportion.kernels.linear.plan import Plan
from apportion.kernels.reference.batch import Tensor
from apportion.kernels.reference.row import accumulated_in

_HEAD = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor? mask, "
    "Tensor? temperatures, float temperature, float? softcap, bool batch_invariant, "
    "SymInt budget"
)
_TENSORS = 6
"""How many of these arguments are tensors."""


def log_probs_and_entropy(
    hidden: Tensor, head: Head, mask: Tensor | None, budget: int, frozen: bool, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropy, `(N,)`, differentiable in hidden states and head.

    Args:
        hidden: `(N, H)`.
        head: weight, bias and what is asked of them.
        mask: `(N,)`, booleans; what is outside is not read, its results and gradients are 0.
        budget: bytes of logits held at a time.
        frozen: keep the gradient by `hidden` of each log-probability.
        with_entropy: without it, the second is of no use.
    """
    each = isinstance(head.temperature, torch.Tensor)
    log_probs, _, entropy, _ = torch.ops.apportion.linear_log_probs(
        hidden,
        head.weight,
        head.bias,
        head.targets,
        mask,
        head.temperature if each else None,
        1.0 if each else head.temperature,
        head.softcap,
        head.batch_invariant,
        budget,
        frozen,
        with_entropy,
    )
    return log_probs, entropy


@torch.library.custom_op(
    "apportion::linear_log_probs",
    mutates_args=(),
    schema=f"({_HEAD}, bool frozen, bool with_entropy) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _linear_log_probs(*arguments: Any) -> tuple[Tensor, ...]:
    """Log-probability, log-sum and entropy; and, where `frozen`, what `by_rows` says."""
    *given, frozen, with_entropy = arguments
    count = len(given[0])
    hidden, head, plan, places = _within_mask(*given)
    found, unit = by_rows(hidden, head, plan, frozen, with_entropy)
    if unit is None:
        return *(_spread(x, places, count) for x in found), hidden.new_empty(0)
    return *(_spread(x, places, count) for x in found), _spread(unit, places, count)


@_linear_log_probs.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    hidden, frozen = arguments[0], arguments[-2]
    kind = accumulated_in(hidden)
    # `len(hidden)` would be a number, and every number of tokens would be compiled anew.
    found = [hidden.new_empty(hidden.shape[0], dtype=kind) for _ in range(3)]
    return *found, hidden.new_empty(hidden.shape if frozen else 0)


@torch.library.custom_op(
    "apportion::linear_log_probs_grad",
    mutates_args=(),
    schema=f"({_HEAD}, Tensor lse, Tensor entropy, Tensor unit, Tensor dlog_probs, "
    "Tensor? dentropy, bool[] wanted) -> (Tensor, Tensor, Tensor)",
)
def _linear_log_probs_grad(*arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of hidden states, weight and bias; those not `wanted` have no elements."""
    *given, lse, entropy, unit, dlog_probs, dentropy, wanted = arguments
    hidden, mask = given[0], given[4]
    if unit.numel() and dentropy is None and not any(wanted[1:]):
        slope = dlog_probs if mask is None else dlog_probs.where(mask, 0.0)
        grads: Any = (unit * slope[:, None]).to(hidden.dtype), None, None
    else:
        count = len(hidden)
        hidden, head, plan, places = _within_mask(*given)
        each = [_of(x, places) for x in (lse, entropy, dlog_probs, dentropy)]
        grads = by_slabs(hidden, head, plan, (each[0], each[1]), (each[2], each[3]), wanted)
        by_hidden = None if grads[0] is None else _spread(grads[0], places, count)
        grads = by_hidden, *grads[1:]
    return tuple(hidden.new_empty(0) if grad is None else grad for grad in grads)


@_linear_log_probs_grad.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    hidden, weight, bias, wanted = *arguments[:3], arguments[-1]
    parts = (hidden.new_empty(hidden.shape), weight, bias)
    pairs = zip(parts, wanted, strict=True)
    return tuple(torch.empty_like(part) if want else hidden.new_empty(0) for part, want in pairs)


def _within_mask(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    mask: Tensor | None,
    temperatures: Tensor | None,
    temperature: float,
    softcap: float | None,
    batch_invariant: bool,
    budget: int,
) -> tuple[Tensor, Head, Plan, Tensor | None]:
    """Hidden states, head and sizes for the tokens of the mask; and their places."""
    places = None if mask is None else mask.nonzero().squeeze(-1)
    each: Any = temperature if temperatures is None else _of(temperatures, places)
    head = Head(weight, bias, _of(targets, places), each, softcap, batch_invariant)
    hidden = _of(hidden, places)
    return hidden, head, head.plan(hidden, budget), places


def _of(values: Tensor | None, places: Tensor | None) -> Tensor | None:
    return values if values is None or places is None else values[places]


def _spread(values: Tensor, places: Tensor | None, count: int) -> Tensor:
    """What belongs to the tokens of the mask, as all tokens: 0 outside it."""
    if places is None:
        return values
    return values.new_zeros((count, *values.shape[1:])).index_copy_(0, places, values)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:_TENSORS], *output[1:])
    ctx.numbers, ctx.with_entropy = inputs[_TENSORS:-2], inputs[-1]
    # Only log-probabilities and entropies have gradients; one that is 0 is left out.
    ctx.mark_non_differentiable(output[1], output[3])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dlog_probs: Any, _lse: Any, dentropy: Any, _unit: Any) -> tuple[Any, ...]:
    tensors, (lse, entropy, unit) = ctx.saved_tensors[:_TENSORS], ctx.saved_tensors[_TENSORS:]
    wanted = list(ctx.needs_input_grad[:3])
    grads = torch.ops.apportion.linear_log_probs_grad(
        *tensors,
        *ctx.numbers,
        lse,
        entropy,
        unit,
        torch.zeros_like(lse) if dlog_probs is None else dlog_probs,
        dentropy if ctx.with_entropy else None,
        wanted,
    )
    found = [grad if want else None for grad, want in zip(grads, wanted, strict=True)]
    return *found, *[None] * (_TENSORS - 3 + len(ctx.numbers) + 2)


torch.library.register_autograd("apportion::linear_log_probs", _backward, setup_context=_setup)
