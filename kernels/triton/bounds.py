"""Bounds that let NaN through, which Triton's own drop. Depends on triton alone."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def smaller(a, b):
    """The smaller of two; NaN where either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def larger(a, b):
    """The larger of two; NaN where either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def within(x, low, high):
    """`x`, or the bound that it is beyond."""
    return smaller(larger(x, low), high)
