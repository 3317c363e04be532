"""Sums over segments of tokens, and their way back to tokens. Depends on triton alone.

One program reduces up to `CHUNK` tokens of one segment, counted from the segment's start,
so a segment's sum has the same bits whatever else is in the batch. Nothing is atomic.
"""

from __future__ import annotations

import triton
import triton.language as tl

from apportion.kernels.triton.bounds import smaller, within

CHUNK = 65536
BLOCK = 1024


@triton.jit
def bounds_of(segment, offsets, width, OFFSETS: tl.constexpr):
    """Start and end of a segment: from its offsets, or of padded rows."""
    if OFFSETS:
        start = tl.load(offsets + segment).to(tl.int64)
        end = tl.load(offsets + segment + 1).to(tl.int64)
    else:
        start = segment * width
        end = start + width
    return start, end


@triton.jit
def span_at(ids, start, lanes, inside, width, IDS: tl.constexpr):
    """The span of each token at `start + lanes`: by its id, or of padded rows.

    One wide division a program, and narrow ones a token: wide ones spill.
    """
    if IDS:
        span = tl.load(ids + start + lanes, mask=inside, other=0).to(tl.int64)
    else:
        first = start // width
        rest = (start - first * width).to(tl.int32)
        span = first + (rest + lanes) // width.to(tl.int32)
    return span


@triton.jit
def width_of(pointer, at, valid, number, scales, scale, KIND: tl.constexpr, SCALE: tl.constexpr):
    """A clip width times its scale; of each, 0: none, 1: a number, 2: one for each token."""
    if KIND == 0:
        width = tl.full(at.shape, float("inf"), tl.float32)
    else:
        if KIND == 2:
            width = tl.load(pointer + at, mask=valid, other=1.0).to(tl.float32)
        else:
            width = tl.zeros(at.shape, tl.float32) + number
        if SCALE == 2:
            width = width * tl.load(scales + at, mask=valid, other=1.0).to(tl.float32)
        elif SCALE == 1:
            width = width * scale
    return width


@triton.jit
def geometric_term(distance, advantage, low, high):
    """GMPO's log ratio, clipped on the advantage's side; 1 where a gradient passes."""
    clipped = within(distance, -low, high)
    sign = tl.where(advantage > 0, 1.0, tl.where(advantage < 0, -1.0, 0.0))
    chosen = smaller(sign * distance, sign * clipped)
    passes = (sign != 0.0) & (sign * distance <= sign * clipped)
    return sign * chosen, passes, clipped != distance


@triton.jit
def finish(total, count, eps, least, most, MEAN: tl.constexpr):
    """A mean from a sum and a count, or the sum within bounds; and the divisor."""
    divisor = tl.where(eps > 0, count + eps, tl.maximum(count, 1.0))
    value = total / divisor if MEAN else within(total, least, most)
    return value, divisor


@triton.jit(do_not_specialize=["width", "chunks", "low", "high", "eps", "least", "most"])
def seg_reduce_kernel(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    weights,
    low_widths,
    high_widths,
    values,
    offsets,
    order,
    totals,
    divisors,
    width,
    chunks,
    low,
    high,
    eps,
    least,
    most,
    TERM: tl.constexpr,
    WEIGHTS: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    OFFSETS: tl.constexpr,
    ORDER: tl.constexpr,
    WHOLE: tl.constexpr,
    MEAN: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """K4: the sum of TERM over a segment's valid tokens, and its mean where asked.

    TERM: "ratio" the log ratio, "geometric" GMPO's clipped one within `least` and `most`,
    "vespo" the log ratio within 20; with WEIGHTS the log of the rollout weight is added to
    the last two; "advantage"; "values" is a buffer of one value a token. WHOLE: one program
    a segment, which finishes it.
    """
    program = tl.program_id(0).to(tl.int64)
    segment, chunk = program // chunks, program % chunks
    start, end = bounds_of(segment, offsets, width, OFFSETS)
    first = start + chunk * CHUNK
    last = tl.minimum(end, first + CHUNK)
    sums = tl.zeros((BLOCK,), tl.float32)
    counts = tl.zeros((BLOCK,), tl.float32)
    for position in range(first, last, BLOCK):
        at = position + tl.arange(0, BLOCK)
        inside = at < last
        if ORDER:
            at = tl.load(order + at, mask=inside, other=0).to(tl.int64)
        valid = inside & (tl.load(mask + at, mask=inside, other=0.0) != 0)
        if TERM == "values":
            term = tl.load(values + at, mask=valid, other=0.0)
        elif TERM == "advantage":
            term = tl.load(advantages + at, mask=valid, other=0.0).to(tl.float32)
        else:
            new = tl.load(log_probs + at, mask=valid, other=0.0).to(tl.float32)
            old = tl.load(old_log_probs + at, mask=valid, other=0.0).to(tl.float32)
            term = new - old
            if TERM == "geometric":
                advantage = tl.load(advantages + at, mask=valid, other=0.0).to(tl.float32)
                lower = width_of(low_widths, at, valid, low, low_widths, 1.0, LOW, 0)
                upper = width_of(high_widths, at, valid, high, high_widths, 1.0, HIGH, 0)
                term = within(term, least, most)
                term, _, _ = geometric_term(term, advantage, lower, upper)
            if TERM == "vespo":
                term = within(term, -20.0, 20.0)
            if WEIGHTS:
                weight = tl.load(weights + at, mask=valid, other=1.0).to(tl.float32)
                if TERM == "geometric":
                    term += tl.log(weight + 1e-10)
                else:
                    term += within(tl.log(weight), least, most)
        sums += tl.where(valid, term, 0.0)
        counts += valid.to(tl.float32)
    total, count = tl.sum(sums, axis=0), tl.sum(counts, axis=0)
    if WHOLE:
        total, count = finish(total, count, eps, least, most, MEAN)
    tl.store(totals + program, total)
    tl.store(divisors + program, count)


@triton.jit(do_not_specialize=["count", "chunks", "eps", "least", "most"])
def seg_finish_kernel(
    totals,
    counts,
    values,
    divisors,
    count,
    chunks,
    eps,
    least,
    most,
    MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The second level of K4, for segments of several chunks: their sums, in order."""
    segment = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = segment < count
    total = tl.zeros((BLOCK,), tl.float32)
    tokens = tl.zeros((BLOCK,), tl.float32)
    for chunk in range(chunks):
        total += tl.load(totals + segment * chunks + chunk, mask=valid, other=0.0)
        tokens += tl.load(counts + segment * chunks + chunk, mask=valid, other=0.0)
    value, divisor = finish(total, tokens, eps, least, most, MEAN)
    tl.store(values + segment, value, mask=valid)
    tl.store(divisors + segment, divisor, mask=valid)


@triton.jit(do_not_specialize=["size", "width"])
def seg_spread_kernel(
    gradient,
    mask,
    passes,
    totals,
    divisors,
    ids,
    size,
    width,
    IDS: tl.constexpr,
    PASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds to each valid token its share of the gradient of its segment's mean."""
    start, lanes = tl.program_id(0).to(tl.int64) * BLOCK, tl.arange(0, BLOCK)
    at = start + lanes
    inside = at < size
    valid = inside & (tl.load(mask + at, mask=inside, other=0.0) != 0)
    segment = span_at(ids, start, lanes, inside, width, IDS)
    total = tl.load(totals + segment, mask=valid, other=0.0)
    share = total / tl.load(divisors + segment, mask=valid, other=1.0)
    if PASSES:
        share *= tl.load(passes + at, mask=valid, other=0.0)
    before = tl.load(gradient + at, mask=valid, other=0.0)
    tl.store(gradient + at, before + share, mask=valid)
