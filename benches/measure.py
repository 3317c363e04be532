"""Timing two functions side by side, and the memory that each takes. Standard library alone.

Load changes from second to second on a shared machine, so ours and the peer's
runs alternate and medians are compared. Memory is measured in a forked child:
the highest resident set while the function runs, less what was resident before and in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Run = Callable[[], Any]
MIB = 1 << 20


def timed(function: Run, clock: Callable[[], float]) -> float:
    """Seconds of one call; its result is dropped inside the measured time, as ours is."""
    start = clock()
    function()
    return clock() - start


def rounds_for(seconds: float, quick: bool) -> int:
    """How often to run something that takes `seconds`: about 10 s in all, 2 s if quick."""
    most, budget = (7, 2.0) if quick else (25, 10.0)
    return max(1, min(most, int(budget / max(seconds, 1e-9))))


def alternate(
    benchmark: Any, ours: Run, theirs: Run | None, quick: bool, clock: Callable[[], float]
) -> tuple[float, float | None]:
    """Median seconds of ours and of the peer, run in turns.

    pytest-benchmark times ours; the peer runs, and is timed, in the set-up of each round.
    The first run of either is a warm-up, and counts only where the peer takes over 10 s.
    The quicker of the two runs on alone once the other has had its rounds.
    """
    ours()
    own = timed(ours, clock)
    first = own if theirs is None else timed(theirs, clock)
    peers = [first] if theirs is not None and first > 10 else []
    rounds = rounds_for(first, quick)

    def setup() -> None:
        if theirs is not None and len(peers) < rounds:
            peers.append(timed(theirs, clock))

    benchmark.pedantic(ours, setup=setup, rounds=max(3, rounds, rounds_for(own, quick)))
    return benchmark.stats.stats.median, statistics.median(peers) if peers else None


def peak_mib(function: Run) -> float | None:
    """Resident memory, in MiB, that a call takes beyond what was there before it.

    Linux only, else `None`. The child runs the function once, so pages that it would
    touch for the first time anyhow (code, tables) count: some tenths of a MiB.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    gc.collect()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(_measure(function, writer))
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        raise RuntimeError("the child that measures memory failed; its error is above")
    return float(text)


def _measure(function: Run, writer: int) -> int:
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
        before, spare = _status("VmRSS"), _lazily_free()
        result = function()
        reused = spare - _lazily_free()  # was there before, though nobody's
        os.write(writer, f"{(_status('VmHWM') - before + reused) / 1024:.2f}".encode())
        del result
        return 0
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1


def _status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {name}")
    return int(found.group(1))


def _lazily_free() -> int:
    """KiB that the system may take back when it likes: what a search leaves for the next."""
    found = re.search(r"LazyFree:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    return int(found.group(1)) if found else 0


def copy_rate() -> float:
    """GB/s that one thread moves in copying 256 MiB, bytes read plus bytes written."""
    import numpy as np

    source = np.ones(1 << 25, dtype=np.float64)
    target = np.zeros_like(source)
    seconds = [timed(lambda: np.copyto(target, source), time.process_time) for _ in range(9)]
    return 2 * source.nbytes / statistics.median(seconds) / 1e9


def fresh_rate() -> float:
    """GB/s at which one thread fills memory that it just got: the system clears it first.
    Every function that returns new arrays pays this; on virtual machines it is much."""
    import numpy as np

    def fill() -> None:
        np.empty(1 << 25, dtype=np.float64).fill(1.0)

    seconds = [timed(fill, time.process_time) for _ in range(9)]
    return (1 << 28) / statistics.median(seconds) / 1e9


def machine() -> dict[str, Any]:
    """What a reader needs to know to judge the numbers."""
    import platform
    import sys

    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": dict(_versions(sys.modules)),
        "load": [round(load, 1) for load in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found.group(1)
    import platform

    return platform.processor() or platform.machine()


def _versions(modules: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("apportion", "numpy", "torch", "verl", "trl"):
        version = getattr(modules.get(name), "__version__", None)
        if version is not None:
            yield name, str(version)
