"""Forms of the row kernels for `apportion.kernels.aot`. Depends on `row`.

Pairwise covers of what calls differ in: any two settings of two of `FACTORS` occur together
in the largest block, where most vocabularies are, and again with smaller ones of every size.
And a vocabulary of one, which is a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apportion.kernels.triton.row import (
    GRAD_BLOCK,
    GRAD_WARPS,
    STATS_BLOCK,
    block_of,
    stats_warps,
    warps_of,
)
from apportion.kernels.triton.row_kernels import row_grad_kernel, row_stats_kernel
from apportion.kernels.triton.shipped import Shipped, pairwise

FACTORS: dict[str, Any] = {
    "TYPE": ("bf16", "fp16", "fp32"),
    "ENTROPY": (True, False),
    "SOFTCAP": (False, True),
    "MASK": (True, False),
    "TEMPERATURES": (False, True),
    "VOCABULARY": ("", "cut", "odd"),
}
"""A vocabulary that is no multiple of 16: cut out of rows that are, or with odd strides."""

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


def shipped() -> Iterator[Shipped]:
    """Forms of K1, then of K2."""
    for kernel, most in ((row_stats_kernel, STATS_BLOCK), (row_grad_kernel, GRAD_BLOCK)):
        smaller = sorted({block_of(2**power, most) for power in range(14)} - {most})
        rows = [
            row
            for blocks in ([most], smaller)
            for row in pairwise({"BLOCK": blocks, **FACTORS}, lambda row: True)
        ]
        for row in [*rows, {**rows[0], "BLOCK": smaller[0], "VOCABULARY": "one"}]:
            yield _form(kernel, row)


def _form(kernel: Any, row: Mapping[str, Any]) -> Shipped:
    vocabulary, block = row["VOCABULARY"], row["BLOCK"]
    warps = warps_of(block, GRAD_BLOCK, GRAD_WARPS)
    if kernel is row_stats_kernel:
        warps = stats_warps(block, row["SOFTCAP"])
    constants = {name: row[name] for name in ("ENTROPY", "SOFTCAP", "BLOCK")}
    absent = {"mask": not row["MASK"], "temperatures": not row["TEMPERATURES"]}
    # K1 writes no entropies where none are asked for; K2 is given what K1 kept.
    absent["dentropies" if "dentropies" in kernel.arg_names else "entropies"] = not row["ENTROPY"]
    constants |= {name: None for name, left_out in absent.items() if left_out}
    constants |= {"vocab": 1} if vocabulary == "one" else {}
    types = {name: _type(name, row["TYPE"]) for name in kernel.arg_names if name not in constants}
    even = {name for name in types if name.startswith("stride") and vocabulary in ("", "cut")}
    if vocabulary == "":
        even = {name for name in types if "stride" in name or name == "vocab"}
    # Each thread of a warp has 16 bytes of a block. K1 masks what is beyond the vocabulary in
    # the last block alone, K2 in each: there it must be known how the vocabulary ends.
    wide = block // (32 * warps) * BYTES[row["TYPE"]] >= 16
    wide = wide and vocabulary in (("", "cut") if kernel is row_stats_kernel else ("",))
    said = [key.lower() for key in ("ENTROPY", "SOFTCAP", "MASK", "TEMPERATURES") if row[key]]
    said += [f"{vocabulary} vocabulary"] * bool(vocabulary)
    name = f"{kernel.__name__} {row['TYPE']} {block} {', '.join(said)}"
    aligned = frozenset(even)
    return Shipped(name, kernel, types, constants, warps, aligned, wide)


def _type(argument: str, logits: str) -> str:
    """As `row` launches it."""
    if argument in ("logits", "out"):
        return f"*{logits}"
    if "stride" in argument:
        return "i64"
    if "vocab" in argument or argument == "length":
        return "i32"
    if argument in ("scale", "softcap"):
        return "fp32"
    return {"targets": "*i64", "mask": "*u8"}.get(argument, "*fp32")
