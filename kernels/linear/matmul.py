"""Matrix products of half-precision factors with results that are not rounded to half.

A product of two bfloat16 or float16 numbers is exact in float32, so a product of matrices
with float32 results is what float32 copies of them give, up to the order of sums. On CUDA
the matrix units do it; elsewhere pieces are widened. Torch alone.
"""

from __future__ import annotations

from typing import Any

import torch

from apportion.kernels.linear.plan import slices
from apportion.kernels.reference.batch import Tensor

PIECE = 4096
"""Rows of the head that are widened at a time."""


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """`out = hidden weight^T + bias` in the type of `out`, `(n, V)`."""
    if hidden.dtype == out.dtype:
        torch.mm(hidden, weight.t(), out=out)
    elif has_wide_results(hidden):
        torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
    else:
        wide = hidden.to(out.dtype)
        for at in slices(len(weight), PIECE):
            torch.mm(wide, weight[at].to(out.dtype).t(), out=out[:, at])
    if bias is not None:
        out.add_(bias)


def accumulate(total: Tensor, factor: Tensor, other: Tensor, first: bool = False) -> None:
    """`total += factor other`, in the type of `total`; `total = factor other` if it is the first.

    `factor` is a gradient, in the type of `total` or in that of `other`.
    """
    beta = 0 if first else 1  # with 0, whatever is in the memory is not read
    if other.dtype == total.dtype:
        total.addmm_(factor, other, beta=beta)
    elif has_wide_results(other):
        factor = factor.to(other.dtype)
        torch.addmm(total, factor, other, out_dtype=total.dtype, beta=beta, out=total)
    else:
        for at in slices(len(other), PIECE):
            wide = other[at].to(total.dtype)
            total.addmm_(factor[:, at].to(total.dtype), wide, beta=beta if at.start == 0 else 1)


def has_wide_results(tensor: Tensor) -> bool:
    """Whether half-precision factors can have float32 products here."""
    return (
        tensor.is_cuda
        and tensor.dtype in (torch.bfloat16, torch.float16)
        and torch.version.hip is None
        and _version() >= (2, 8)
    )


def _version() -> tuple[int, ...]:
    numbers: Any = torch.__version__.split("+")[0].split(".")[:2]
    return tuple(map(int, numbers))
