"""Values within a mask, a constant outside of it. Torch alone."""

from __future__ import annotations

from typing import Any

import torch

Tensor = Any  # torch is optional, so it is not there for every type checker

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


class Selection:
    """Keeps what is within a mask of zeros and ones, in the mask's float type.

    What is outside, NaN included, reaches neither value nor gradient. On a processor by the
    bits of the numbers, where `torch.where` takes fifteen times as long.
    """

    def __init__(self, mask: Tensor) -> None:
        """`mask` is in float32 or float64."""
        self.mask = mask
        self.by_bits = mask.device.type == "cpu" and not torch.compiler.is_compiling()
        self.bits = mask.to(INTEGERS[mask.dtype]).neg_() if self.by_bits else mask != 0

    def __call__(self, values: Tensor, constant: float = 0.0) -> Tensor:
        """What is kept of values in any float type, in the mask's."""
        values = values.to(self.mask.dtype)
        if not self.by_bits:
            return torch.where(self.bits, values, values.new_full((), constant))
        kept = _Kept.apply(values, self.bits) if values.requires_grad else _kept(values, self.bits)
        return kept + constant * (1.0 - self.mask) if constant else kept


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bits: Tensor) -> Tensor:
        ctx.bits = bits
        return _kept(values, bits)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        if upstream.requires_grad:  # which bits have not
            return torch.where(ctx.bits != 0, upstream, 0.0), None
        return _kept(upstream, ctx.bits), None


def _kept(values: Tensor, bits: Tensor) -> Tensor:
    return (values.view(bits.dtype) & bits).view(values.dtype)
