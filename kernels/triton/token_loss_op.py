"""`apportion::token_loss`: the loss, the kernel's sums, and the gradient that goes with them.

Its forward launches K5 `token_loss` and K6 `det_sum`; a pooled ratio adds K4 `seg_reduce`,
a gradient through its mean two launches more. Its backward is one product, and the
upstream gradient stays on the device. Depends on the kernels and `dispatch`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
    call = _Call(log_probs, inputs, numbers, flags, sizes)
    with on_device_of(log_probs):
        of_rows = call.reduce(row_term, call.rows) if row_term else (None, None)
        means, divisors = call.reduce("ratio", call.segments) if pooled else (None, None)
        gradient, through, passes, partials = call.tokens(surrogate, pooled, kl, of_rows, means)
        if surrogate == "geometric":
            call.spread(gradient, through, passes, of_rows[1], call.rows)
        if pooled == "mean":
            call.spread(gradient, through, None, divisors, call.segments)
        loss, sums = gradient.new_empty(()), gradient.new_empty(QUANTITIES)
        weights, blocks = call.x["row_weights"], partials.shape[1]
        det_sum_kernel[(QUANTITIES,)](partials, weights, loss, sums, blocks, BLOCK=BLOCK)
    return loss, sums, gradient


@dataclass(frozen=True)
class _Layout:
    """Spans of tokens: padded ones have a width, others starts, and ids of their tokens."""

    count: int
    width: int
    offsets: Tensor
    ids: Tensor
    order: Tensor = None
    """Of the tokens, where those of a span are not neighbours."""


class _Call:
    """What the operator was given, by name, and its launches."""

    def __init__(
        self, log_probs: Tensor, inputs: Any, numbers: Any, flags: Any, sizes: Sequence[int]
    ) -> None:
        self.log_probs = log_probs
        self.x: dict[str, Tensor] = dict(zip(INPUTS, inputs, strict=True))
        self.value = dict(zip(NUMBERS, numbers, strict=True))
        self.on = dict(zip(FLAGS, flags, strict=True))
        x, on = self.x, self.on
        self.clips = {
            name.upper(): 0 if not on[name] else 1 if x[name] is None else 2
            for name in ("low", "high", "scale")
        }
        width, count, segment_width = sizes
        rows = x["row_weights"].numel()
        self.rows = _Layout(rows, width, x["row_offsets"], x["row_ids"])
        segments = x["segment_offsets"], x["segment_ids"], x["segment_order"]
        self.segments = _Layout(count, segment_width, *segments)

    def reduce(self, term: str, spans: _Layout, values: Tensor = None) -> tuple[Tensor, Tensor]:
        """K4: the mean of a term over each span, VESPO's and that of values its sum; divisors."""
        x, value = self.x, self.value
        geometric = term == "geometric"
        longest = spans.width if spans.offsets is None else self.log_probs.numel()
        chunks = max(triton.cdiv(longest, seg.CHUNK), 1)
        totals, counts = self._floats(spans.count * chunks), self._floats(spans.count * chunks)
        bounds = (LOG_LEAST, LOG_MOST) if term == "vespo" else (-math.inf, math.inf)
        bounds = (value["least"], value["most"]) if geometric else bounds
        eps = 1e-8 if geometric else 0.0
        mean = term in ("ratio", "geometric", "advantage")
        if not spans.count:
            return totals, counts
        seg.seg_reduce_kernel[(spans.count * chunks,)](
            self.log_probs,
            x["old_log_probs"],
            x["advantages"],
            x["mask"],
            x["weights"],
            x["low"] if geometric else None,
            x["high"] if geometric else None,
            values,
            spans.offsets,
            spans.order,
            totals,
            counts,
            spans.width,
            chunks,
            value["low"],
            value["high"],
            eps,
            *bounds,
            TERM=term,
            WEIGHTS=x["weights"] is not None and term in ("geometric", "vespo"),
            LOW=self.clips["LOW"] if geometric else 0,
            HIGH=self.clips["HIGH"] if geometric else 0,
            OFFSETS=spans.offsets is not None,
            ORDER=spans.order is not None,
            WHOLE=chunks == 1,
            MEAN=mean,
            CHUNK=seg.CHUNK,
            BLOCK=seg.BLOCK,
        )
        if chunks == 1:
            return totals, counts
        sums, divisors = self._floats(spans.count), self._floats(spans.count)
        grid, parts = (triton.cdiv(spans.count, seg.BLOCK),), (spans.count, chunks)
        seg.seg_finish_kernel[grid](
            totals, counts, sums, divisors, *parts, eps, *bounds, MEAN=mean, BLOCK=seg.BLOCK
        )
        return sums, divisors

    def tokens(
        self, surrogate: str, pooled: str, kl: str, of_rows: Any, means: Tensor
    ) -> tuple[Tensor, ...]:
        """K5: the gradient, what of it goes through means, where it passes; sums of blocks."""
        x, on, size = self.x, self.on, self.log_probs.numel()
        gradient, through, passes = (self._floats(size) for _ in range(3))
        blocks = triton.cdiv(size, BLOCK)
        partials = self._floats(QUANTITIES, blocks)
        if not size:
            return gradient, through, passes, partials
        token_loss_kernel[(blocks,)](
            self.log_probs,
            x["old_log_probs"],
            x["advantages"],
            x["mask"],
            x["row_weights"],
            self.rows.ids,
            *of_rows,
            means,
            self.segments.ids,
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
            self.rows.width,
            self.segments.width,
            blocks,
            *(self.value[name] for name in NUMBERS),
            SURROGATE=surrogate,
            POOLED=pooled,
            BOUNDED=on["bounded"],
            **self.clips,
            DUAL=on["dual"],
            MULTIPLIER=x["multiplier"] is not None,
            KL=kl,
            KL_PLUS=on["kl_plus"],
            KL_TIMES_RATIO=on["kl_times_ratio"],
            ROW_IDS=self.rows.ids is not None,
            SEGMENT_IDS=self.segments.ids is not None,
            BLOCK=BLOCK,
        )
        return gradient, through, passes, partials

    def spread(
        self, gradient: Tensor, through: Tensor, passes: Any, divisors: Tensor, spans: _Layout
    ) -> None:
        """The gradient of the spans' means, summed over each and shared by its tokens."""
        size = gradient.numel()
        if not size:
            return
        totals, _ = self.reduce("values", spans, through)
        seg.seg_spread_kernel[(triton.cdiv(size, BLOCK),)](
            gradient,
            self.x["mask"],
            passes,
            totals,
            divisors,
            spans.ids,
            size,
            spans.width,
            IDS=spans.ids is not None,
            PASSES=passes is not None,
            BLOCK=BLOCK,
        )

    def _floats(self, *shape: int) -> Tensor:
        return self.log_probs.new_empty(shape, dtype=torch.float32)


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
