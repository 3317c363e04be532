"""What a kernel's module says of the forms that it is launched in. Depends on nothing.

`apportion.kernels.aot` compiles them without a GPU. A module lists them in a function
`shipped()`, and stands in the list `aot.MODULES`.
"""

from __future__ import annotations

from collections.abc import Mapping
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
