"""The example on Ray: the same credit as in one process, also when its workers are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_search.py"


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


def check_killed(tmp_path: Path, kills: int, *settings: object) -> list[dict[str, Any]]:
    """The steps of one process, which are those of two whose workers are killed."""
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    alone = started(*settings, "--workers", 0, "--out", files[0])
    spread = started(*settings, "--workers", 2, "--out", files[1])
    killed: set[int] = set()
    while spread.poll() is None and len(killed) < kills:
        for worker in set(workers(spread)) - killed:
            time.sleep(0.2)  # in the middle of a shard
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
            break
        time.sleep(0.02)
    out, err = spread.communicate(timeout=300)
    assert spread.returncode == 0, err
    assert alone.communicate(timeout=300) and alone.returncode == 0
    assert len(killed) == kills
    one, two = (file.read_text() for file in files)
    assert one == two
    rows = [json.loads(line) for line in one.splitlines()]
    assert f"{len({row['tree'] for row in rows[1:]})} trees" in out
    return rows[1:]


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="finds workers in /proc"
)


def test_killed_workers_change_nothing(tmp_path: Path) -> None:
    rows = check_killed(tmp_path, 3, "--shard-size", 1, "--delay", 0.1, "--simulations", 12)
    assert len({row["tree"] for row in rows}) == 8 and any(row["credit"] for row in rows)


def test_killed_workers_with_a_model_change_nothing(tmp_path: Path) -> None:
    """A language model instead of the fake one, small, but of transformers."""
    tiny = pytest.importorskip("tiny_model")
    tiny.model(max_position_embeddings=2048).save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    settings = ("--evaluator", "transformers", "--model", tmp_path / "model")
    more = ("--simulations", 4, "--children", 2, "--rollouts", 2, "--shard-size", 4)
    rows = check_killed(tmp_path, 1, *settings, *more)
    assert all(row["text"] and row["tokens"] and row["scores"] for row in rows if row["depth"])
