"""K6: sums of partial sums in a fixed order, for losses and metrics. Depends on triton alone."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count"])
def det_sum_kernel(partials, row_weights, loss, sums, count, BLOCK: tl.constexpr):
    """One program a quantity: `sums[q]` of `partials[q, :count]`, the second of two levels.

    The sum of quantity 0 is the loss. Where nothing was counted that it is divided by, all
    weights are infinite, and it is no number, as plain torch's, in which they meet zeros.
    """
    quantity = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(partials + quantity * count + at, mask=at < count, other=0.0)
    result = tl.sum(total, axis=0)
    tl.store(sums + quantity, result)
    if quantity == 0:
        tl.store(loss, result + 0.0 * tl.load(row_weights, mask=count > 0, other=0.0))
