"""`apportion::token_loss`: the loss, the kernel's sums, and the gradient that goes with them.

Its forward launches K5 `token_loss` and K6 `det_sum`; a pooled ratio adds K4 `seg_reduce`,
a gradient through its mean two launches more. Its backward is one product, and the
upstream gradient stays on the device. Depends on the kernels and `dispatch`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton

from apportion.kernels.dispatch import on_device_of
from apportion.kernels.triton import segments as seg
from apportion.kernels.triton.sums import det_sum_kernel
from apportion.kernels.triton.token_loss import BLOCK, QUANTITIES, token_loss_kernel

Tensor = Any

INPUTS = (
    *("old_log_probs", "advantages", "mask", "row_weights", "row_ids", "row_offsets"),
    *("segment_ids", "segment_offsets", "segment_order", "low", "high", "scale"),
    *("chosen", "multiplier", "weights", "reference"),
)
NUMBERS = (
    *("low", "high", "scale", "least", "most", "cap", "dual", "c0", "c1", "c2", "c3"),
    *("kl_coef", "kl_input", "kl_output"),
)
FLAGS = ("bounded", "low", "high", "scale", "dual", "kl_plus", "kl_times_ratio")
"""Order of the operator's lists. A clip width that is on and no input is a number."""

LOG_LEAST, LOG_MOST = -18.420680743952367, 20.0
"""VESPO's bounds of log weights: log 1e-8 and 20."""


@torch.library.custom_op("apportion::token_loss", mutates_args=())
def token_loss(
    log_probs: torch.Tensor,
    inputs: Sequence[torch.Tensor | None],
    surrogate: str,
    row_term: str,
    pooled: str,
    kl: str,
    numbers: Sequence[float],
    flags: Sequence[bool],
    sizes: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss `()`, sums `(QUANTITIES,)` and gradient `(N,)`, in float32.

    `pooled` says how a pooled ratio is differentiated: `"token"`, `"mean"`, or `""` for
    ratios of tokens. `sizes` are the width of padded rows, the number of segments, and the
    width of padded segments.
    """
    x: dict[str, Tensor] = dict(zip(INPUTS, inputs, strict=True)) | {"log_probs": log_probs}
    with on_device_of(log_probs):
        return _launch(x, surrogate, row_term, pooled, kl, numbers, flags, sizes)


def _launch(
    x: dict[str, Tensor],
    surrogate: str,
    row_term: str,
    pooled: str,
    kl: str,
    numbers: Sequence[float],
    flags: Sequence[bool],
    sizes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    value = dict(zip(NUMBERS, numbers, strict=True))
    on = dict(zip(FLAGS, flags, strict=True))
    width, segment_count, segment_width = sizes
    log_probs = x["log_probs"]
    size, rows = log_probs.numel(), x["row_weights"].numel()
    clips = {
        name.upper(): 0 if not on[name] else 1 if x[name] is None else 2
        for name in ("low", "high", "scale")
    }
    row_spans = rows, x["row_offsets"], None, width
    segments = segment_count, x["segment_offsets"], x["segment_order"], segment_width
    row_values = row_divisors = means = divisors = None
    if row_term:
        row_values, row_divisors = _reduce(row_term, x, value, clips, row_spans)
    if pooled:
        means, divisors = _reduce("ratio", x, value, clips, segments)
    gradient, through, passes = (log_probs.new_empty(size, dtype=torch.float32) for _ in range(3))
    blocks = triton.cdiv(size, BLOCK)
    partials = gradient.new_empty(QUANTITIES, blocks)
    if size:
        token_loss_kernel[(blocks,)](
            log_probs,
            x["old_log_probs"],
            x["advantages"],
            x["mask"],
            x["row_weights"],
            x["row_ids"],
            row_values,
            row_divisors,
            means,
            x["segment_ids"],
            x["low"],
            x["high"],
            x["scale"],
            x["chosen"],
            x["multiplier"],
            x["reference"],
            gradient,
            through,
            passes,
            partials,
            size,
            width,
            segment_width,
            blocks,
            *(value[name] for name in NUMBERS),
            SURROGATE=surrogate,
            POOLED=pooled,
            BOUNDED=on["bounded"],
            **clips,
            DUAL=on["dual"],
            MULTIPLIER=x["multiplier"] is not None,
            KL=kl,
            KL_PLUS=on["kl_plus"],
            KL_TIMES_RATIO=on["kl_times_ratio"],
            ROW_IDS=x["row_ids"] is not None,
            SEGMENT_IDS=x["segment_ids"] is not None,
            BLOCK=BLOCK,
        )
        if surrogate == "geometric":
            _spread(gradient, through, passes, row_divisors, x, row_spans, x["row_ids"])
        if pooled == "mean":
            _spread(gradient, through, None, divisors, x, segments, x["segment_ids"])
    loss, sums = gradient.new_empty(()), gradient.new_empty(QUANTITIES)
    det_sum_kernel[(QUANTITIES,)](partials, loss, sums, blocks, BLOCK=BLOCK)
    return loss, sums, gradient


def _reduce(
    term: str, x: dict[str, Tensor], value: Any, clips: Any, spans: Any, values: Any = None
):
    """K4 over spans: the mean of a term over each (VESPO's its sum), and the divisors."""
    count, offsets, order, width = spans
    mean = term in ("ratio", "geometric", "advantage")
    longest = x["log_probs"].numel() if offsets is not None else width
    chunks = max(triton.cdiv(longest, seg.CHUNK), 1)
    like = x["row_weights"]
    totals, counts = like.new_empty(count * chunks), like.new_empty(count * chunks)
    bounds = (LOG_LEAST, LOG_MOST) if term == "vespo" else (-math.inf, math.inf)
    if term == "geometric":
        bounds = value["least"], value["most"]
    eps = 1e-8 if term == "geometric" else 0.0
    if count:
        seg.seg_reduce_kernel[(count * chunks,)](
            x["log_probs"],
            x["old_log_probs"],
            x["advantages"],
            x["mask"],
            x["weights"],
            x["low"],
            x["high"],
            values,
            offsets,
            order,
            totals,
            counts,
            width,
            chunks,
            value["low"],
            value["high"],
            eps,
            *bounds,
            TERM=term,
            WEIGHTS=x["weights"] is not None and term != "ratio" and term != "values",
            LOW=clips["LOW"],
            HIGH=clips["HIGH"],
            OFFSETS=offsets is not None,
            ORDER=order is not None,
            WHOLE=chunks == 1,
            MEAN=mean,
            CHUNK=seg.CHUNK,
            BLOCK=seg.BLOCK,
        )
    if chunks == 1 or not count:
        return totals, counts
    sums, divisors = like.new_empty(count), like.new_empty(count)
    grid = (triton.cdiv(count, seg.BLOCK),)
    seg.seg_finish_kernel[grid](
        totals, counts, sums, divisors, count, chunks, eps, *bounds, MEAN=mean, BLOCK=seg.BLOCK
    )
    return sums, divisors


def _spread(
    gradient: Tensor,
    through: Tensor,
    passes: Tensor | None,
    divisors: Tensor,
    x: dict[str, Tensor],
    spans: Any,
    ids: Tensor | None,
) -> None:
    """The gradient of the spans' means, summed over each and shared by its tokens."""
    none = {"LOW": 0, "HIGH": 0}
    totals, _ = _reduce("values", x, {"low": 0.0, "high": 0.0}, none, spans, through)
    size = gradient.numel()
    seg.seg_spread_kernel[(triton.cdiv(size, BLOCK),)](
        gradient,
        x["mask"],
        passes,
        totals,
        divisors,
        ids,
        size,
        spans[3],
        IDS=ids is not None,
        PASSES=passes is not None,
        BLOCK=BLOCK,
    )


@token_loss.register_fake
def _(log_probs, inputs, surrogate, row_term, pooled, kl, numbers, flags, sizes):
    gradient = log_probs.new_empty(log_probs.numel(), dtype=torch.float32)
    return gradient.new_empty(()), gradient.new_empty(QUANTITIES), gradient


def _keep_gradient(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(output[2])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Any, ...]:
    (gradient,) = ctx.saved_tensors
    own = (upstream * gradient).to(ctx.dtype)
    return own, *(None,) * 8


token_loss.register_autograd(_backward, setup_context=_keep_gradient)
