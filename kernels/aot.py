"""Compile every kernel for an H100 or H200 without one, and read what came out.

    python -m apportion.kernels.aot

prints registers, spilled bytes and shared memory of each form that a kernel is launched
in, and fails where one spills, or lacks the 128-bit loads or the matrix instructions that
it was written for. A kernel is added by its module's name in `MODULES`. Needs Triton,
whose wheel has the assembler and the disassembler.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = ("apportion.kernels.triton.row_variants", "apportion.kernels.triton.variants")
"""Modules with a function `shipped()`."""

TARGET = ("cuda", 90, 32)
"""Hopper, and the lanes of a warp."""


@dataclass(frozen=True)
class Compiled:
    """What the assembler made of a kernel; `faults` is empty where all is as it should be."""

    name: str
    registers: int
    spilled: int
    shared: int
    wide_loads: int
    matrix_instructions: int
    faults: tuple[str, ...]


def shipped() -> Iterator[Any]:
    """The kernels in the forms that their modules list, `triton.shipped.Shipped`."""
    for name in MODULES:
        yield from importlib.import_module(name).shipped()


def compiled(form: Any) -> Compiled:
    """Compile one form for `TARGET`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = form.kernel.arg_names
    signature = {name: form.types.get(name, "constexpr") for name in names}
    aligned = {name for name in names if signature[name].startswith("*")} | form.aligned
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(form.kernel, signature, dict(form.constants), attributes)
    options = {"num_warps": form.num_warps}
    result = triton.compile(source, target=GPUTarget(*TARGET), options=options)
    usage, assembly = _disassembled(result.asm["cubin"])
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", usage)}
    wide = len(re.findall(r"\bLDG\.\S*128\b", assembly))
    matrix = len(re.findall(r"\bHGMMA\.", assembly))
    spills = len(re.findall(r"\b(?:STL|LDL)\b", assembly))
    faults = []
    if numbers["STACK"] or spills:
        faults.append(f"spills {numbers['STACK']} bytes")
    if form.wide_loads and not wide:
        faults.append("has no 128-bit load")
    if form.tensor_cores and not matrix:
        faults.append("has no matrix instruction")
    sizes = (numbers["REG"], numbers["STACK"], result.metadata.shared)
    return Compiled(form.name, *sizes, wide, matrix, tuple(faults))


def _disassembled(cubin: bytes) -> tuple[str, str]:
    """Resource usage and instructions, by the tools that Triton brings."""
    import triton

    tools = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        commands = ([tools / "cuobjdump", "-res-usage"], [tools / "nvdisasm"])
        texts = [
            subprocess.run([*command, file.name], check=True, capture_output=True, text=True).stdout
            for command in commands
        ]
    return texts[0], texts[1]


def main() -> int:
    """Print a line for each form; 1 where one has a fault."""
    import triton

    print(f"Triton {triton.__version__}, sm_{TARGET[1]}")
    print(f"{'kernel':<44}{'registers':>10}{'spilled':>9}{'shared':>8}{'wide loads':>12}")
    wrong = 0
    for form in shipped():
        one = compiled(form)
        print(
            f"{one.name:<44}{one.registers:>10}{one.spilled:>9}{one.shared:>8}{one.wide_loads:>12}"
            + "".join(f"  {fault}" for fault in one.faults)
        )
        wrong += bool(one.faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
