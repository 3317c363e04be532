"""Replay of the reference cases through the public API.

Walks `tests/golden/` and the folder named by `APPORTION_GOLDEN`, maps each
case's folder to a call through `REPLAY` (in `golden_replay.py`, and for policy
losses in `golden_replay_loss.py`), compares every output field at the case's
tolerance, and prints one line a folder: `name passed/total`. A folder that is
neither mapped nor listed in `NOT_YET` fails; those in `NEEDS_TORCH` wait where
torch is missing.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import golden_replay
from golden_replay import TOLERANCES

REPLAY = dict(golden_replay.REPLAY)
HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:
    import golden_replay_loss

    REPLAY |= golden_replay_loss.REPLAY
    REPLAY |= golden_replay_loss.with_losses(golden_replay.REPLAY)

OWN = Path(__file__).parent / "golden"


def not_yet() -> list[str]:
    files = ["NOT_YET"] if HAS_TORCH else ["NOT_YET", "NEEDS_TORCH"]
    lines = [line for file in files for line in (OWN / file).read_text().splitlines()]
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def folders() -> Iterator[Path]:
    roots = [OWN]
    if os.environ.get("APPORTION_GOLDEN"):
        roots.append(Path(os.environ["APPORTION_GOLDEN"]))
    for root in roots:
        yield from sorted(path for path in root.iterdir() if path.is_dir())


def is_waiting(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in not_yet())


def numbers(value: Any) -> np.ndarray:
    """Nested lists as one flat array; non-finite numbers are strings in the files."""
    if isinstance(value, list):
        return np.concatenate([numbers(item) for item in value]) if value else np.zeros(0)
    return np.array([np.nan if value is None else float(value)])


def agrees(case: str, meta: dict[str, Any], got: Any, want: Any) -> str | None:
    """What differs, or `None`."""
    default = 1e-9 if meta.get("dtype") == "float64" else 2e-5
    rtol = TOLERANCES.get(case, meta.get("rtol") or default)
    got_flat, want_flat = np.asarray(got, dtype=np.float64).reshape(-1), numbers(want)
    if got_flat.shape != want_flat.shape:
        return f"got {got_flat.size} numbers, expected {want_flat.size}"
    close = np.isclose(got_flat, want_flat, rtol=rtol, atol=rtol / 10, equal_nan=True)
    if close.all():
        return None
    index = int(np.flatnonzero(~close)[0])
    return f"[{index}]: got {got_flat[index]!r}, expected {want_flat[index]!r}"


def check(folder: Path, file: Path) -> list[str]:
    """Differences of one case, field by field; every field must be compared."""
    case = json.loads(file.read_text())
    name = f"{folder.name}/{file.stem}"
    got = REPLAY[folder.name](case)
    problems = []
    for field, want in case["outputs"].items():
        if field not in got:
            problems.append(f"{name}: output {field!r} is not compared")
        elif callable(got[field]):
            if not got[field](want):
                problems.append(f"{name}: {field} differs from {want!r}")
        elif (difference := agrees(name, case["meta"], got[field], want)) is not None:
            problems.append(f"{name}: {field}{difference}")
    return problems


@pytest.mark.parametrize(
    "folder", list(folders()), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_golden(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if is_waiting(folder.name):
        assert folder.name not in REPLAY, f"{folder.name} is mapped: take it off NOT_YET"
        return
    assert folder.name in REPLAY, f"{folder.name}: no mapping in golden_replay.py, nor in NOT_YET"
    files = sorted(folder.glob("case_*.json"))
    files = [f for f in files if not is_waiting(f"{folder.name}/{f.stem}")]
    problems = [check(folder, file) for file in files]
    passed = sum(not found for found in problems)
    with capsys.disabled():
        print(f"\n{folder.name} {passed}/{len(files)}", end="")
    assert passed == len(files), "\n".join(line for found in problems for line in found)


def test_not_yet_names_existing_folders() -> None:
    """Nothing that is mapped may hide behind a pattern for whole folders."""
    assert not [name for name in REPLAY if is_waiting(name)]
