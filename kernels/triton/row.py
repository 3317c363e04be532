"""K1 and K2: statistics of rows of logits, and their gradient. Depends on `reference.row`.

`kernels/reference/row.py` has the formulas. Exponentials are in base 2, so a row's scale
is `log2(e) / temperature`. A program takes one row (K1) or one block of a row (K2) and
adds in a fixed order without atomics: no bit of a row depends on the rows beside it.
Offsets of rows are int64, and of what depends on the shape only the block is a constant,
so that no length of a batch compiles anew.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from apportion.kernels.reference.row import Row, Tensor

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
FLOOR = tl.constexpr(-1e30)
"""Stands for a log-probability of `-inf`, which times a probability of 0 is no number."""

STATS_BLOCK, STATS_WARPS = 8192, 8
GRAD_BLOCK, GRAD_WARPS = 4096, 8


def block_of(vocab: int, most: int) -> int:
    """Columns that a program holds at a time: a power of two, from 128 to `most`."""
    return min(max(1 << (vocab - 1).bit_length(), 128), most)


@triton.jit
def capped(x, softcap):
    """`softcap * tanh(x / softcap)`, and the tanh; exact in the limits, no overflow."""
    e = tl.exp2(tl.abs(x) / softcap * (-2 * LOG2_E))
    tanh = tl.where(x < 0, -1.0, 1.0) * (1 - e) / (1 + e)
    return softcap * tanh, tanh


@triton.jit
def fold(top, total, moment, x, scale, ENTROPY: tl.constexpr):
    """Add a block to a row's largest logit, `sum 2^d` and `sum d 2^d`.

    `d` is the distance to the largest in base 2; `top` is `x` itself, without the scale.
    """
    highest = tl.maximum(top, tl.max(x, 0))
    # Where all was -inf so far there is nothing to rescale, and -inf - -inf is no number.
    base = tl.where(highest == float("-inf"), 0.0, highest)
    shift = tl.where(top == float("-inf"), 0.0, (top - base) * scale)
    d = tl.maximum((x - base) * scale, FLOOR, propagate_nan=tl.PropagateNan.ALL)
    weight = tl.exp2(d)
    ratio = tl.exp2(shift)
    if ENTROPY:
        moment = ratio * (moment + shift * total) + tl.sum(weight * d, 0)
    total = ratio * total + tl.sum(weight, 0)
    return highest, total, moment


@triton.jit(do_not_specialize=["length", "scale", "softcap", "vocab_offset", "vocab_size"])
def row_stats_kernel(
    logits,
    targets,
    mask,
    temperatures,
    log_probs,
    lses,
    entropies,
    length,
    stride_batch: tl.int64,
    stride_row: tl.int64,
    vocab,
    scale,
    softcap,
    vocab_offset,
    vocab_size,
    SOFTCAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """K1: one program a row."""
    row = tl.program_id(0).to(tl.int64)
    if mask is not None:
        if tl.load(mask + row) == 0:
            tl.store(log_probs + row, 0.0)
            tl.store(lses + row, 0.0)
            if ENTROPY:
                tl.store(entropies + row, 0.0)
            return
    if temperatures is not None:
        scale = 1.0 / tl.load(temperatures + row) * LOG2_E
    start = logits + row // length * stride_batch + row % length * stride_row
    columns = tl.arange(0, BLOCK)
    top, total, moment = float("-inf"), 0.0, 0.0
    whole = vocab // BLOCK * BLOCK
    for first in range(0, whole, BLOCK):
        x = tl.load(start + first + columns).to(tl.float32)
        if SOFTCAP:
            x, _ = capped(x, softcap)
        top, total, moment = fold(top, total, moment, x, scale, ENTROPY)
    if whole < vocab:
        inside = whole + columns < vocab
        x = tl.load(start + whole + columns, mask=inside, other=float("-inf")).to(tl.float32)
        if SOFTCAP:
            x = tl.where(inside, capped(x, softcap)[0], float("-inf"))
        top, total, moment = fold(top, total, moment, x, scale, ENTROPY)

    base = tl.where(top == float("-inf"), 0.0, top)
    log_total = tl.log2(total)
    tl.store(lses + row, (base * scale + log_total) * LN_2)
    if ENTROPY:
        tl.store(entropies + row, (log_total - moment / total) * LN_2)
    target = tl.load(targets + row)
    local = target - vocab_offset
    here = (local >= 0) & (local < vocab)
    own = tl.load(start + local, mask=here, other=float("-inf")).to(tl.float32)
    if SOFTCAP:
        own = tl.where(here, capped(own, softcap)[0], float("-inf"))
    log_prob = ((own - base) * scale - log_total) * LN_2
    # A row without any probability has log_total = -inf. NaN must stay NaN.
    log_prob = tl.where(own == float("-inf"), own, tl.where(log_prob > 0, 0.0, log_prob))
    known = (target >= 0) & (target < vocab_size)
    tl.store(log_probs + row, tl.where(known, log_prob, float("nan")))


@triton.jit(do_not_specialize=["length", "scale", "softcap", "vocab_offset"])
def row_grad_kernel(
    logits,
    targets,
    mask,
    temperatures,
    lses,
    entropies,
    dlog_probs,
    dlses,
    dentropies,
    out,
    length,
    stride_batch: tl.int64,
    stride_row: tl.int64,
    out_stride_batch: tl.int64,
    out_stride_row: tl.int64,
    vocab,
    scale,
    softcap,
    vocab_offset,
    SOFTCAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """K2: one program a block of a row. `out` may be the logits."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < vocab
    to = out + row // length * out_stride_batch + row % length * out_stride_row + columns
    if mask is not None:
        if tl.load(mask + row) == 0:
            tl.store(to, tl.zeros((BLOCK,), out.dtype.element_ty), mask=inside)
            return
    if temperatures is not None:
        scale = 1.0 / tl.load(temperatures + row) * LOG2_E
    at = logits + row // length * stride_batch + row % length * stride_row + columns
    x = tl.load(at, mask=inside, other=float("-inf")).to(tl.float32)
    if SOFTCAP:
        x, tanh = capped(x, softcap)
    z = x * scale - tl.load(lses + row) * LOG2_E
    z = tl.maximum(z, FLOOR, propagate_nan=tl.PropagateNan.ALL)
    dlog_prob = tl.load(dlog_probs + row)
    factor = tl.load(dlses + row) - dlog_prob
    if ENTROPY:
        dentropy = tl.load(dentropies + row)
        factor -= dentropy * (z * LN_2 + tl.load(entropies + row))
    grad = tl.exp2(z) * factor
    local = tl.load(targets + row) - vocab_offset
    grad += tl.where(columns == local, dlog_prob, 0.0)
    if SOFTCAP:
        grad *= 1 - tanh * tanh
    tl.store(to, (grad * (scale * LN_2)).to(out.dtype.element_ty), mask=inside)


def row_stats(logits: Tensor, row: Row, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.row_stats`, in float32."""
    logits = rows_of_columns(logits)
    batch, length, vocab = logits.shape
    log_probs, lse = (logits.new_empty((batch, length), dtype=torch.float32) for _ in range(2))
    entropy = logits.new_empty((batch, length) if with_entropy else 0, dtype=torch.float32)
    if batch * length == 0:
        return log_probs, lse, entropy
    block = block_of(vocab, STATS_BLOCK)
    row_stats_kernel[(batch * length,)](
        logits,
        *per_row(row),
        log_probs,
        lse,
        entropy if with_entropy else None,
        length,
        logits.stride(0),
        logits.stride(1),
        vocab,
        *numbers(row),
        row.vocab_size,
        SOFTCAP=row.softcap is not None,
        ENTROPY=with_entropy,
        BLOCK=block,
        num_warps=warps_of(block, STATS_BLOCK, STATS_WARPS),
    )
    return log_probs, lse, entropy


def row_grad(
    logits: Tensor, row: Row, saved: tuple[Tensor, Tensor], upstream: Any, out: Tensor
) -> None:
    """As `reference.row_grad`; the sums are in float32."""
    logits = rows_of_columns(logits)
    batch, length, vocab = logits.shape
    if batch * length == 0:
        return
    to = out if out.stride(2) == 1 else torch.empty_like(logits)
    block = block_of(vocab, GRAD_BLOCK)
    lse, entropy = saved
    each = [None if x is None else x.float().contiguous() for x in (lse, entropy, *upstream)]
    row_grad_kernel[(batch * length, triton.cdiv(vocab, block))](
        logits,
        *per_row(row),
        *each,
        to,
        length,
        logits.stride(0),
        logits.stride(1),
        to.stride(0),
        to.stride(1),
        vocab,
        *numbers(row),
        SOFTCAP=row.softcap is not None,
        ENTROPY=upstream[2] is not None,
        BLOCK=block,
        num_warps=warps_of(block, GRAD_BLOCK, GRAD_WARPS),
    )
    if to is not out:
        out.copy_(to)


def rows_of_columns(logits: Tensor) -> Tensor:
    """The logits with neighbouring columns side by side: a copy where they are not."""
    return logits if logits.stride(2) == 1 or logits.shape[2] == 1 else logits.contiguous()


def per_row(row: Row) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Targets, mask and temperatures as the kernels read them."""
    mask = None if row.mask is None else row.mask.contiguous().view(torch.uint8)
    each = isinstance(row.temperature, torch.Tensor)
    return row.targets.contiguous(), mask, row.temperature.float() if each else None


def numbers(row: Row) -> tuple[float, float, int]:
    """The scale in base 2, unless each row has its own; the softcap; the vocabulary's offset."""
    each = isinstance(row.temperature, torch.Tensor)
    scale = 1.0 if each else LOG2_E.value / row.temperature
    return scale, 0.0 if row.softcap is None else row.softcap, row.vocab_offset


def warps_of(block: int, most: int, warps: int) -> int:
    """As many warps as keep a thread's share of a smaller block that of the largest."""
    return max(warps * block // most, 1)
