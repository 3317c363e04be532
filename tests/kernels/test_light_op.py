"""The light op: interpreted against plain torch and replaying the reference cases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.4")

TESTS = Path(__file__).parent.parent


def interpreted(*arguments: str) -> None:
    """pytest in a process of its own: Triton reads the variable when a kernel is defined."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_interpreted() -> None:
    interpreted(str(TESTS / "kernels/light_op.py"))


def test_reference_cases_interpreted() -> None:
    """Those in float32 go through the kernels."""
    folders = "verl_loss or policy_loss or trl_grpo_loss or a2tgpo or a3"
    interpreted(str(TESTS / "test_golden.py"), "-k", folders)
