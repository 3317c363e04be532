"""Bounds, the larger of two, and borrowed gradients, all made of products. Torch alone.

`torch.where`, `masked_fill` and comparisons take five to fifteen times as long on a
processor as a product, and autograd makes them of `clamp` and `maximum`; the sign of a
difference says the same.
"""

from __future__ import annotations

from typing import Any

import torch

Tensor = Any  # torch is optional, so it is not there for every type checker


def bound(values: Tensor, low: Any, high: Any) -> Tensor:
    """`values` within `[low, high]`; a bound is a number, a tensor, or `None` for none.

    On a bound the gradient passes. `torch.clamp` lets it pass, halves it or stops it
    there, depending on its version and on whether the bound is a tensor.
    """
    if low is None and high is None:
        return values
    if not values.requires_grad:
        return _clamped(values, low, high)
    bounded: Tensor = _Bound.apply(values, low, high)
    return bounded


def _clamped(values: Tensor, low: Any, high: Any) -> Tensor:
    if not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor):
        return values.clamp(low, high)
    values = values if low is None else values.clamp(min=low)
    return values if high is None else values.clamp(max=high)


def larger(first: Tensor, second: Tensor) -> Tensor:
    """The larger of two; where they tie, each gets half of the gradient."""
    chosen: Tensor = _Chosen.apply(first, second, torch.maximum, 1)
    return chosen


def smaller(first: Tensor, second: Tensor) -> Tensor:
    """The smaller of two; where they tie, each gets half of the gradient."""
    chosen: Tensor = _Chosen.apply(first, second, torch.minimum, -1)
    return chosen


def straight_through(values: Tensor, like: Tensor) -> Tensor:
    """The values with the gradient of `like`; also where that is infinite, as a sum is not."""
    through: Tensor = _Through.apply(like, values.detach())
    return through


def exceeds(first: Tensor, second: Tensor) -> Tensor:
    """1 where the first is larger, else 0; no gradient."""
    return (first.detach() - second.detach()).sign_().clamp_(min=0.0)


class _Bound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, low: Any, high: Any) -> Tensor:
        bounded = _clamped(values, low, high)
        ctx.save_for_backward(values, bounded)
        return bounded

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        values, bounded = ctx.saved_tensors
        with torch.no_grad():
            inside = (values - bounded).sign_().abs_().neg_().add_(1.0)
        return upstream * inside, None, None


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, like: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        return upstream, None


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, choose: Any, sign: int) -> Tensor:
        ctx.sign = sign
        ctx.save_for_backward(first, second)
        chosen: Tensor = choose(first, second)
        return chosen

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        first, second = ctx.saved_tensors
        with torch.no_grad():
            share = (first - second).sign_().mul_(0.5 * ctx.sign).add_(0.5)
        own = upstream * share
        return own, upstream - own, None, None
