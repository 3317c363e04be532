"""What a kernel's module says of the forms that it is launched in. Depends on nothing.

`apportion.kernels.aot` compiles them without a GPU. A module lists them in a function
`shipped()`, and stands in the list `aot.MODULES`. Where there are more settings than can all
be combined, `pairwise` chooses.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shipped:
    """A kernel as it is launched.

    Attributes:
        name: the kernel and what is special to this form.
        kernel: as `triton.jit` made it.
        types: of each argument that is no constant: `"*bf16"`, `"i32"`, ...
        constants: the others; an argument that is `None` too.
        num_warps: of a program.
        aligned: arguments that are multiples of 16, and pointers to 16 bytes.
        wide_loads: 128-bit loads must be there.
        tensor_cores: Hopper's matrix instructions must be there.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    aligned: frozenset[str] = frozenset()
    wide_loads: bool = True
    tensor_cores: bool = False


def pairwise(factors: Mapping[str, Sequence[Any]], can_be: Any) -> list[dict[str, Any]]:
    """Rows in which any two possible settings of two factors occur together; greedy."""
    names = list(factors)
    open_pairs = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in factors[a]
        for y in factors[b]
        if can_be({a: x, b: y})
    }
    rows = []
    while open_pairs:
        row = dict(min(open_pairs, key=repr))
        for name in (name for name in names if name not in row):
            choices = [value for value in factors[name] if can_be({**row, name: value})]
            gain = {
                repr(v): sum(pair in open_pairs for pair in _pairs({**row, name: v}, names))
                for v in choices
            }
            row[name] = max(choices, key=lambda v: gain[repr(v)])
        rows.append({name: row[name] for name in names})
        open_pairs -= set(_pairs(row, names))
    return rows


def _pairs(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    ordered = [(name, row[name]) for name in names if name in row]
    return list(itertools.combinations(ordered, 2))
