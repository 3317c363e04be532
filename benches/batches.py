"""Batches for the benchmarks, the same in every run. NumPy alone."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
GROUP_SIZE = 8
ALL_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def thread_counts() -> list[int]:
    return sorted({1, ALL_THREADS or 1})


@dataclass
class Padded:
    """A batch as verl holds it: lengths uniform in [T/8, T], padded on the right."""

    mask: Array  # (N, T) int64
    rewards: Array  # (N, T) float32, one number at the last token
    uid: Array  # (N,) strings as objects, eight rows a group

    @property
    def tokens(self) -> int:
        return self.mask.size


def ids(count: int, rng: np.random.Generator) -> list[str]:
    """uuid strings, as trainers make them."""
    return [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(count)]


def padded(rows: int, width: int, seed: int = 0) -> Padded:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(width // 8, width + 1, rows)
    mask = np.zeros((rows, width), dtype=np.int64)
    rewards = np.zeros((rows, width), dtype=np.float32)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    rewards[np.arange(rows), lengths - 1] = rng.standard_normal(rows)
    uid = np.repeat(np.array(ids(rows // GROUP_SIZE, rng), dtype=object), GROUP_SIZE)
    return Padded(mask, rewards, uid)
