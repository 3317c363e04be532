"""The row kernels: interpreted, and compiled for Hopper without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from apportion.kernels import aot

FORMS = list(aot.shipped())

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


def test_interpreted() -> None:
    """In a process of its own: Triton reads the variable when a kernel is defined."""
    tests = Path(__file__).with_name("row_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_compiled_for_hopper(form: Any) -> None:
    assert aot.compiled(form).faults == ()


def test_faults_are_found(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    stats = FORMS[0]
    forms = [
        replace(stats, name="unaligned", aligned=frozenset()),
        replace(stats, name="crowded", constants={**stats.constants, "BLOCK": 2**16}),
        replace(stats, name="scalar", tensor_cores=True),
        stats,
    ]
    monkeypatch.setattr(aot, "shipped", lambda: forms)
    assert aot.main() == 1
    unaligned, crowded, scalar, good = capsys.readouterr().out.splitlines()[2:]
    assert unaligned.endswith("has no 128-bit load")
    assert "spills" in crowded
    assert scalar.endswith("has no matrix instruction")
    assert good.split()[-1].isdigit()
