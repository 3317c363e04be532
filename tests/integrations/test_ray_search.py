"""The example on Ray: the same credit as in one process, also when its workers are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_search.py"
KILLS = 3


def started(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, EXAMPLE, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(running: subprocess.Popen[str]) -> list[int]:
    """Processes that run a shard for this program, by what Ray calls them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            name = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if name.startswith(b"ray::search_shard") and belongs(int(entry.name), running.pid):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def belongs(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers in /proc")
def test_killed_workers_change_nothing(tmp_path: Path) -> None:
    settings = ("--shard-size", 1, "--delay", 0.1, "--simulations", 12)
    alone = started(*settings, "--workers", 0, "--out", tmp_path / "one.jsonl")
    spread = started(*settings, "--workers", 2, "--out", tmp_path / "two.jsonl")
    killed: set[int] = set()
    while spread.poll() is None and len(killed) < KILLS:
        for worker in set(workers(spread)) - killed:
            time.sleep(0.2)  # in the middle of a shard
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
            break
        time.sleep(0.02)
    out, err = spread.communicate(timeout=120)
    assert spread.returncode == 0, err
    assert alone.communicate(timeout=120)[1] == "" and alone.returncode == 0
    assert len(killed) == KILLS
    one, two = ((tmp_path / name).read_text() for name in ("one.jsonl", "two.jsonl"))
    assert one == two and "8 trees" in out
    assert any(json.loads(line).get("credit") for line in one.splitlines())
