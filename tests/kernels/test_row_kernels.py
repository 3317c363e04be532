"""The row kernels: interpreted, and how many forms of them are compiled."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.4")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler.compiler import make_backend  # noqa: E402
from triton.runtime.jit import create_function_from_signature  # noqa: E402

from apportion.kernels import aot  # noqa: E402
from apportion.kernels.reference.row import Row  # noqa: E402
from apportion.kernels.triton import row  # noqa: E402


def test_interpreted() -> None:
    """In a process of its own: Triton reads the variable when a kernel is defined."""
    tests = Path(__file__).with_name("row_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


class Recorder:
    """Stands for a kernel and keeps what it is launched with, as the compiler tells it apart."""

    def __init__(self, kernel: Any) -> None:
        backend = make_backend(GPUTarget(*aot.TARGET))
        self.bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        self.forms: set[str] = set()

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **constants: Any) -> None:
            _, told_apart, options = self.bind(*args, **constants)
            self.forms.add(f"{told_apart} {options}")

        return launch


@pytest.mark.parametrize(("vocab", "most"), [(151936, 1), (2053, 2)])
def test_no_length_compiles_anew(monkeypatch: pytest.MonkeyPatch, vocab: int, most: int) -> None:
    """An odd vocabulary has two forms: 16 divides the rows of a sequence, or not."""
    stats, grad = (Recorder(x) for x in (row.row_stats_kernel, row.row_grad_kernel))
    monkeypatch.setattr(row, "row_stats_kernel", stats)
    monkeypatch.setattr(row, "row_grad_kernel", grad)
    for batch, length in itertools.product((1, 2, 7, 16), (1, 2, 3, 15, 16, 17, 2**15, 10**5)):
        logits = torch.empty(batch, length, vocab, dtype=torch.bfloat16, device="meta")
        each = torch.zeros(batch, length, device="meta")
        rows = Row(each.long(), each.bool(), 0.7 + length, None, 0, vocab)
        row.row_stats(logits, rows, True)
        row.row_grad(logits, rows, (each, each), (each, each, each), logits)
    assert len(stats.forms) <= most and len(grad.forms) <= most
