"""The `compare` fixture and the rows that it collects. May depend on `measure` and pytest.

Called through `run.sh`, which says by environment variables where rows go
(`BENCH_ROWS`) and whether to be quick (`QUICK`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `peers` and `data`, for the bench files

import measure

import apportion as ap
from apportion import _core

QUICK = os.environ.get("QUICK", "") not in ("", "0")
ROWS: list[dict[str, Any]] = []


def pytest_configure(config: pytest.Config) -> None:
    if _core.__debug_build__:
        pytest.exit("benchmarks need a release build of apportion; this is a debug build", 2)


@pytest.fixture(scope="session")
def quick() -> bool:
    return QUICK


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One thread is timed by CPU seconds, which leave out what other processes take."""
    for item in items:
        threads = getattr(item, "callspec", None) and item.callspec.params.get("threads", 1)
        item.add_marker(pytest.mark.benchmark(timer=_clock(threads or 1)))


def _clock(threads: int) -> Callable[[], float]:
    return time.process_time if threads == 1 else time.perf_counter


def _use_threads(count: int) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time ours beside the peer and keep a row of the table."""

    def run(
        case: str,
        peer: str,
        ours: Callable[[], Any],
        theirs: Callable[[], Any] | None,
        *,
        goal: float | None = None,
        moved: int | None = None,
        threads: int = 1,
        peer_scale: float | None = None,
        limit: float | None = None,
        less: Callable[[], Any] | None = None,
        fork: bool = True,
    ) -> None:
        """`less`: timed beside ours, and taken off it. `fork`: false where threads of the
        peer would hang the children that measure memory. `limit`: seconds that ours may
        take, in the peer's place where there is none. `peer_scale`: the peer ran on a share
        of the case; its seconds are multiplied by this, and the row says so. `moved`: bytes
        of input read and output written once."""
        _use_threads(threads)
        with ap.num_threads(threads):
            beside = less or theirs
            ours_s, peer_s = measure.alternate(benchmark, ours, beside, QUICK, _clock(threads))
            if less is not None and peer_s is not None:
                ours_s, peer_s = ours_s - peer_s, None
            ours_peak = measure.peak_mib(ours) if threads == 1 and fork else None
            brief = peer_s is not None and peer_s < 40  # else once is enough
            brief = brief and fork and threads == 1
            peer_peak = measure.peak_mib(theirs) if theirs and brief else None
        if limit is not None:
            peer_s, goal = limit, 1.0
        if peer_scale is not None and peer_s is not None:
            peer_s, peer_peak = peer_s * peer_scale, None
            peer += f" (extrapolated, x{peer_scale:g})"
        ratio = None if peer_s is None else peer_s / ours_s
        name = case if threads == 1 else f"{case}, {threads} threads"
        ROWS.append(
            {
                "case": name,
                "peer": peer,
                "ours_s": ours_s,
                "peer_s": peer_s,
                "ratio": ratio,
                "goal": goal,
                "ours_peak_mib": ours_peak,
                "peer_peak_mib": peer_peak,
                "moved": moved,
            }
        )

    return run


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    target = os.environ.get("BENCH_ROWS")
    if target:
        rates = {"copy_gb_s": measure.copy_rate(), "fresh_gb_s": measure.fresh_rate()}
        rounded = {name: round(rate, 2) for name, rate in rates.items()}
        machine = {**measure.machine(), **rounded}
        Path(target).write_text(json.dumps({"machine": machine, "rows": ROWS}))
