"""The row kernels' host side: their configurations and launches. Depends on `row_kernels`."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton

from apportion.kernels.reference.row import Row, Tensor
from apportion.kernels.triton.row_kernels import row_grad_kernel, row_stats_kernel

STATS_BLOCK, STATS_WARPS = 8192, 8
GRAD_BLOCK, GRAD_WARPS = 4096, 8
"""Columns that a program of K1 and of K2 holds at most, and its warps."""

LOG2_E = math.log2(math.e)


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
        num_warps=stats_warps(block, row.softcap is not None),
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
    scale = 1.0 if each else LOG2_E / row.temperature
    return scale, 0.0 if row.softcap is None else row.softcap, row.vocab_offset


def block_of(vocab: int, most: int) -> int:
    """Columns that a program holds at a time: a power of two, from 128 to `most`."""
    return min(max(1 << (vocab - 1).bit_length(), 128), most)


def stats_warps(block: int, softcap: bool) -> int:
    """Of K1. A softcap's tanh wants registers: twice the warps have half the columns each."""
    return warps_of(block, STATS_BLOCK, STATS_WARPS * (2 if softcap else 1))


def warps_of(block: int, most: int, warps: int) -> int:
    """As many warps as keep a thread's share of a smaller block that of the largest."""
    return max(warps * block // most, 1)
