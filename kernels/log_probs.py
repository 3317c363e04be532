"""The operators `apportion::row_stats` and `apportion::row_grad`, and who computes them.

Registered with torch, so that they can be traced, compiled and differentiated once.
`kernels/reference/row.py` has the formulas. Arguments are checked before, in
`apportion.loss.log_probs`. Logits are `(B, T, V)`, everything of a row is `(B, T)`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from apportion.kernels import native
from apportion.kernels.dispatch import on_device_of, runs_on_triton
from apportion.kernels.reference import row as reference
from apportion.kernels.reference.row import Row, Tensor

_ROW = (
    "Tensor targets, Tensor? mask, Tensor? temperatures, float temperature, float? softcap, "
    "SymInt vocab_offset, SymInt vocab_size, bool batch_invariant"
)


def log_probs_and_entropy(
    logits: Tensor, row: Row, with_entropy: bool, in_place: bool, group: Any
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropy, `(B, T)`, differentiable in the logits.

    Args:
        logits: `(B, T, V)`.
        row: how they are read.
        with_entropy: whether to compute the second; else it has no elements.
        in_place: whether the gradient may overwrite the logits.
        group: of the processes that hold the other columns, or `None`.
    """
    if in_place or group is not None:
        log_probs, entropy = _Eager.apply(logits, row, with_entropy, in_place, group)
        return log_probs, entropy
    log_probs, _, entropy = torch.ops.apportion.row_stats(logits, *_flat(row), with_entropy)
    return log_probs, entropy


def row_stats(logits: Tensor, row: Row, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`log_probs`, `lse` and `entropy` of each row; see `reference.row_stats`."""
    if runs_on_triton(logits):
        from apportion.kernels.triton import row as fused

        with on_device_of(logits):
            return fused.row_stats(logits, row, with_entropy)
    if native.takes(logits):
        return native.row_stats(logits, row, with_entropy)
    return reference.row_stats(logits, row, with_entropy)


def row_grad(
    logits: Tensor, row: Row, saved: tuple[Tensor, Tensor], upstream: Any, out: Tensor
) -> None:
    """Write the gradient of the logits to `out`; see `reference.row_grad`."""
    if runs_on_triton(logits):
        from apportion.kernels.triton import row as fused

        with on_device_of(logits):
            fused.row_grad(logits, row, saved, upstream, out)
    elif native.takes(logits, out):
        native.row_grad(logits, row, saved, upstream, out)
    else:
        reference.row_grad(logits, row, saved, upstream, out)


def _flat(row: Row) -> tuple[Any, ...]:
    """A row's settings as arguments of an operator, which takes tensors and numbers apart."""
    each = isinstance(row.temperature, torch.Tensor)
    temperatures, temperature = (row.temperature, 1.0) if each else (None, row.temperature)
    sizes = (row.vocab_offset, row.vocab_size, row.batch_invariant)
    return row.targets, row.mask, temperatures, temperature, row.softcap, *sizes


def _row(arguments: tuple[Any, ...]) -> Row:
    """The inverse of `_flat`."""
    targets, mask, temperatures, temperature, *others = arguments
    return Row(targets, mask, temperature if temperatures is None else temperatures, *others)


@torch.library.custom_op(
    "apportion::row_stats",
    mutates_args=(),
    schema=f"(Tensor logits, {_ROW}, bool with_entropy) -> (Tensor, Tensor, Tensor)",
)
def _row_stats(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return row_stats(logits, _row(arguments[:-1]), arguments[-1])


@_row_stats.register_fake
def _(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    kind = reference.accumulated_in(logits)
    each = [logits.new_empty(logits.shape[:-1], dtype=kind) for _ in range(3)]
    return each[0], each[1], each[2] if arguments[-1] else logits.new_empty(0, dtype=kind)


@torch.library.custom_op(
    "apportion::row_grad",
    mutates_args=(),
    schema=f"(Tensor logits, {_ROW}, Tensor lse, Tensor entropy, "
    "Tensor dlog_probs, Tensor dlse, Tensor? dentropy) -> Tensor",
)
def _row_grad(logits: Tensor, *arguments: Any) -> Tensor:
    *row, lse, entropy, dlog_probs, dlse, dentropy = arguments
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    row_grad(logits, _row(tuple(row)), (lse, entropy), (dlog_probs, dlse, dentropy), out)
    return out


@_row_grad.register_fake
def _(logits: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, mask, temperatures, *numbers, ctx.with_entropy = inputs
    ctx.numbers = numbers
    ctx.save_for_backward(logits, targets, mask, temperatures, *output[1:])


def _backward(ctx: Any, dlog_probs: Tensor, dlse: Tensor, dentropy: Tensor) -> tuple[Any, ...]:
    logits, targets, mask, temperatures, lse, entropy = ctx.saved_tensors
    grad = torch.ops.apportion.row_grad(
        logits,
        targets,
        mask,
        temperatures,
        *ctx.numbers,
        lse,
        entropy,
        dlog_probs,
        dlse,
        dentropy if ctx.with_entropy else None,
    )
    return grad, *[None] * (len(ctx.numbers) + 4)


torch.library.register_autograd("apportion::row_stats", _backward, setup_context=_setup)


class _Eager(torch.autograd.Function):
    """What the operator cannot do: overwrite the logits, and merge with other processes.

    Every process of the group gets the statistics of the whole vocabulary, and with the
    same upstream gradient the gradient of its own columns.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, row: Row, with_entropy: bool, in_place: bool, group: Any
    ) -> tuple[Tensor, Tensor]:
        log_probs, lse, entropy = row_stats(logits, row, with_entropy)
        if group is not None:
            log_probs, lse, entropy = _gathered(group, row, log_probs, lse, entropy)
        ctx.save_for_backward(logits, lse, entropy)
        ctx.row, ctx.with_entropy, ctx.in_place = row, with_entropy, in_place
        return log_probs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dlog_probs: Tensor, dentropy: Tensor) -> tuple[Any, ...]:
        logits, lse, entropy = ctx.saved_tensors
        dentropy = dentropy if ctx.with_entropy else None
        upstream = (dlog_probs, torch.zeros_like(dlog_probs), dentropy)
        out = logits.detach() if ctx.in_place else torch.empty_like(logits)
        row_grad(logits, ctx.row, (lse, entropy), upstream, out)
        if ctx.in_place:
            # A second pass would read gradients as logits; torch refuses it by this.
            torch.autograd.graph.increment_version(logits)
        return out, None, None, None, None


def _gathered(
    group: Any, row: Row, log_probs: Tensor, lse: Tensor, entropy: Tensor
) -> tuple[Tensor, ...]:
    """The statistics of the whole vocabulary, merged in the order of ranks."""
    own = [log_probs, lse] + ([entropy] if entropy.shape == lse.shape else [])
    parts = [torch.empty_like(torch.stack(own)) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, torch.stack(own), group=group)
    columns = torch.stack(parts, dim=1)
    merged = reference.merge(columns[0], columns[1], columns[2] if len(own) == 3 else None)
    if row.mask is not None:
        merged = tuple(None if x is None else torch.where(row.mask, x, 0.0) for x in merged)
    return merged[0], merged[1], entropy if merged[2] is None else merged[2]
