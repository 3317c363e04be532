"""K1 and K2: statistics of rows of logits, and their gradient. Depends on Triton alone.

`kernels/reference/row.py` has the formulas, `row` launches them. Exponentials are in base
2, so a row's scale is `log2(e) / temperature`. A program takes one row (K1) or one block
of a row (K2) and adds in a fixed order without atomics: no bit of a row depends on the
rows beside it. Offsets of rows are int64, and of what depends on the shape only the block
is a constant, so that no length of a batch compiles anew.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
FLOOR = tl.constexpr(-1e30)
"""Stands for a log-probability of `-inf`, which times a probability of 0 is no number."""


@triton.jit
def capped(x, softcap):
    """`softcap * tanh(x / softcap)`, and the tanh; exact in the limits, no overflow."""
    e = tl.exp2(tl.abs(x) / softcap * (-2 * LOG2_E))
    tanh = tl.where(x < 0, -1.0, 1.0) * (1 - e) / (1 + e)
    return softcap * tanh, tanh


@triton.jit
def base_of(top, scale):
    """What exponents are relative to, in base 2; 0 where all is -inf, as -inf - -inf is NaN."""
    return tl.where(top == float("-inf"), 0.0, top * scale)


@triton.jit
def place(stride_batch, stride_row, length):
    """Where this program's row starts, in int64: logits of 2^31 elements are common."""
    row = tl.program_id(0)
    return (row // length).to(tl.int64) * stride_batch + (row % length).to(tl.int64) * stride_row


@triton.jit
def fold(top, total, moment, x, scale, ENTROPY: tl.constexpr):
    """Add a block to a row's largest logit, `sum 2^d` and `sum d 2^d`; `d`: distance to it."""
    highest = tl.maximum(top, tl.max(x, 0))
    before, base = base_of(top, scale), base_of(highest, scale)
    # Where all was -inf so far there is nothing to rescale, and the base is 0.
    shift = tl.where(top == float("-inf"), 0.0, before - base)
    ratio = tl.exp2(shift)
    d = tl.maximum(tl.fma(x, scale, -base), FLOOR, propagate_nan=tl.PropagateNan.ALL)
    weight = tl.exp2(d)
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
    row = tl.program_id(0)
    if mask is not None:
        if tl.load(mask + row) == 0:
            tl.store(log_probs + row, 0.0)
            tl.store(lses + row, 0.0)
            if ENTROPY:
                tl.store(entropies + row, 0.0)
            return
    if temperatures is not None:
        scale = 1.0 / tl.load(temperatures + row) * LOG2_E
    start = logits + place(stride_batch, stride_row, length)
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

    base = base_of(top, scale)
    log_total = tl.log2(total)
    tl.store(lses + row, (base + log_total) * LN_2)
    if ENTROPY:
        tl.store(entropies + row, (log_total - moment / total) * LN_2)
    target = tl.load(targets + row)
    local = target - vocab_offset
    here = (local >= 0) & (local < vocab)
    own = tl.load(start + local, mask=here, other=float("-inf")).to(tl.float32)
    if SOFTCAP:
        own = tl.where(here, capped(own, softcap)[0], float("-inf"))
    log_prob = (tl.fma(own, scale, -base) - log_total) * LN_2
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
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < vocab
    to = out + place(out_stride_batch, out_stride_row, length) + columns
    if mask is not None:
        if tl.load(mask + row) == 0:
            tl.store(to, tl.zeros((BLOCK,), out.dtype.element_ty), mask=inside)
            return
    if temperatures is not None:
        scale = 1.0 / tl.load(temperatures + row) * LOG2_E
    at = logits + place(stride_batch, stride_row, length) + columns
    x = tl.load(at, mask=inside, other=float("-inf")).to(tl.float32)
    if SOFTCAP:
        x, tanh = capped(x, softcap)
    z = tl.fma(x, scale, -tl.load(lses + row) * LOG2_E)
    z = tl.maximum(z, FLOOR, propagate_nan=tl.PropagateNan.ALL)
    # What is the same for the whole row is multiplied together first, as numbers.
    slope = scale * LN_2
    dlog_prob = tl.load(dlog_probs + row)
    factor = (tl.load(dlses + row) - dlog_prob) * slope
    if ENTROPY:
        dentropy = tl.load(dentropies + row) * slope
        factor = tl.fma(z, -dentropy * LN_2, factor - dentropy * tl.load(entropies + row))
    grad = tl.exp2(z) * factor
    local = tl.load(targets + row) - vocab_offset
    if local // BLOCK == tl.program_id(1):
        grad += tl.where(columns == local, dlog_prob * slope, 0.0)
    if SOFTCAP:
        grad *= 1 - tanh * tanh
    tl.store(to, grad.to(out.dtype.element_ty), mask=inside)
