"""Timing, memory and output of the benchmarks on a GPU. Depends on torch alone.

A measurement is the median of at least 30 runs or 300 ms, between events on the device,
each run on the next of several sets of inputs; everything is measured twice, and the
spread of the two medians says how much is noise. Memory is what was allocated at most
beyond the inputs. Rates are given beside those of a copy and of a matrix product that
were measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"


@dataclass
class Bench:
    """One command's device, sizes and rows of results."""

    name: str
    rehearsal: bool
    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        return "cpu" if self.rehearsal else "cuda"

    def size(self, full: Any, small: Any) -> Any:
        """The size to measure, or the one to rehearse with."""
        return small if self.rehearsal else full

    def time(self, runs: Sequence[Callable[[], Any]]) -> dict[str, float]:
        """Milliseconds of `runs`, which do the same on different inputs, one after another."""
        passes = [self._times(runs) for _ in range(2)]
        every = sorted(passes[0] + passes[1])
        medians = [statistics.median(times) for times in passes]
        return {
            "ms": statistics.median(every),
            "p20": every[len(every) // 5],
            "p80": every[-len(every) // 5],
            "spread": abs(medians[0] - medians[1]) / statistics.median(every),
            "runs": len(every),
        }

    def _times(self, runs: Sequence[Callable[[], Any]]) -> list[float]:
        least, enough = (2, 0.0) if self.rehearsal else (30, 300.0)
        for run in runs:
            run()
        times: list[float] = []
        # Small work is timed many times, large work 30 times at most, or until 3 s are over.
        while len(times) < least or sum(times) < enough:
            times.append(self._one(runs[len(times) % len(runs)]))
            if sum(times) > 3000 and len(times) >= 5:
                break
        return times

    def _one(self, run: Callable[[], Any]) -> float:
        if self.rehearsal:
            start = time.perf_counter()
            run()
            return 1000 * (time.perf_counter() - start)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))

    def peak(self, run: Callable[[], Any]) -> float:
        """GiB that `run` allocates at most, beyond what is there."""
        if self.rehearsal:
            run()
            return 0.0
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before) / 2**30

    def measure(self, case: dict[str, Any], runs: Sequence[Callable[[], Any]]) -> dict[str, Any]:
        """Time and memory as a row of the results; what runs out of memory says so."""
        try:
            row = {**case, "peak_gib": self.peak(runs[0]), **self.time(runs)}
        except torch.OutOfMemoryError:
            row = {**case, "error": "out of memory"}
        except Exception as error:  # a peer that fails must not end the run
            row = {**case, "error": f"{type(error).__name__}: {str(error)[:200]}"}
        if not self.rehearsal:
            torch.cuda.empty_cache()
        self.rows.append(row)
        print(short(row), flush=True)
        return row

    def ceilings(self) -> None:
        """The rates of a copy and of a bfloat16 matrix product on this machine, now."""
        size = self.size(2**32, 2**20)
        n, k, m = self.size((8192, 4096, 128256), (64, 32, 96))
        copied = self.time([copy(size, self.device)])
        product = self.time([gemm(n, k, m, self.device)])
        self.facts["copy_gb_s"] = 4 * size / copied["ms"] / 1e6
        self.facts["gemm_tflop_s"] = 2 * n * k * m / product["ms"] / 1e9
        self.facts["ceilings"] = {"copy": copied, "gemm": product}

    def finish(self, table: Sequence[str]) -> None:
        """Write the results, and the short table last."""
        self.facts["clocks_after"] = clocks()
        self.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"name": self.name, **self.facts, "rows": self.rows}, indent=1)
        self.out.write_text(text + "\n")
        print(f"\nwritten to {self.out}\n")
        print("\n".join(table))


def copy(size: int, device: str) -> Callable[[], Any]:
    """A copy of `size` bfloat16 numbers, read once and written once."""
    source = torch.zeros(size, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def gemm(n: int, k: int, m: int, device: str) -> Callable[[], Any]:
    """A product as a head's: random numbers, as zeros draw less power."""
    left = torch.randn(n, k, device=device).bfloat16()
    right = torch.randn(m, k, device=device).bfloat16()
    return lambda: left @ right.t()


def start(name: str, arguments: Sequence[str] | None = None) -> Bench:
    """Read the command line; end the process where there is no GPU and none is pretended."""
    parser = argparse.ArgumentParser(description=f"GPU benchmark '{name}'")
    parser.add_argument("--out", type=Path, help="file for the results, default benches/results")
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny sizes on the processor: numbers mean nothing"
    )
    given = parser.parse_args(arguments)
    if not given.rehearse and not torch.cuda.is_available():
        print(
            f"{name}: no GPU here (torch {torch.__version__}). Nothing measured.", file=sys.stderr
        )
        raise SystemExit(2)
    today = datetime.now(timezone.utc).date().isoformat()
    if given.rehearse and given.out is None:
        parser.error("--rehearse needs --out: its numbers are no results")
    bench = Bench(name, given.rehearse, given.out or RESULTS / f"gpu-{name}-{today}.json")
    bench.facts |= {"date": today, "torch": torch.__version__, "triton": version("triton")}
    bench.facts["device"] = "rehearsal" if given.rehearse else torch.cuda.get_device_name()
    bench.facts["clocks_before"] = clocks()
    return bench


def version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def clocks() -> str:
    """Clocks and power as the driver says them."""
    fields = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
    try:
        run = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()


def short(row: dict[str, Any]) -> str:
    """A row of results on one line."""
    names = [str(v) for k, v in row.items() if k not in ("ms", "p20", "p80", "spread", "runs")]
    if "ms" not in row:
        return "  ".join(names)
    return "  ".join([*names[:-1], f"{row['ms']:.3f} ms", f"{row['peak_gib']:.2f} GiB"])
