"""The benchmarks on a GPU: they say so where there is none, and run through, interpreted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.4")

FOLDER = Path(__file__).parents[2] / "benches" / "gpu"
SLOW = pytest.mark.skipif("APPORTION_SLOW" not in os.environ, reason="APPORTION_SLOW is not set")


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "BENCH_PEERS": ""}
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nothing_is_measured_without_a_gpu() -> None:
    done = run("check")
    assert done.returncode == 2 and "no GPU here" in done.stderr


@pytest.mark.parametrize(
    "name", ["check", "light", pytest.param("rows", marks=SLOW), pytest.param("linear", marks=SLOW)]
)
def test_rehearsal(name: str, tmp_path: Path) -> None:
    done = run(name, "--rehearse", "--out", str(tmp_path / "rows.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "rows.json").read_text())
    assert found["device"] == "rehearsal" and found["copy_gb_s"] > 0
    assert found["rows"] and all("error" not in row for row in found["rows"]), found["rows"]
    assert all(goal["state"] in ("met", "missed", "open") for goal in found.get("goals", []))
    assert all(off < 0.02 for off in found.get("agreement", {}).values())
