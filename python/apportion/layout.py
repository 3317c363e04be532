"""Where rows, turns and trajectories are in flat token arrays. Depends on `arrays` and `encode`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion import encode
from apportion.arrays import MAX_VALUES, Array, integers
from apportion.errors import DtypeError, InputError


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth
class Layout:
    """Where rows, turns and trajectories are in the flat token arrays."""

    rows: int
    width: int | None = None  # tokens in a row where all rows have the same
    token_offsets: Array | None = None  # else (rows + 1,) int64
    mask: Array | None = None  # flat; None: every token is trained
    turns: tuple[Array, Array] | None = None  # offsets (rows + 1,), flat start-end pairs
    trajectory_ids: Any = None  # step rows: encoded ids, one a row
    turn_index: Array | None = None  # step rows: order within a trajectory

    @property
    def tokens(self) -> int:
        """Number of tokens, masked ones and padding included."""
        if self.token_offsets is not None:
            return int(self.token_offsets[-1])
        return self.rows * (self.width or 0)


def step_rows(trajectory_ids: Any, turn_index: Any) -> dict[str, Any]:
    """The fields of a layout in which a row is one turn."""
    if trajectory_ids is None:
        if turn_index is not None:
            raise InputError("turn_index: given without trajectory_ids, which it would order")
        return {}
    index = None if turn_index is None else integers("turn_index", turn_index)
    return {"trajectory_ids": encode.keys("trajectory_ids", trajectory_ids), "turn_index": index}


def flat_spans(
    spans: Sequence[Sequence[Sequence[int]]] | None, rows: int, start: Callable[[int], int]
) -> tuple[Array, Array] | None:
    """Row-relative spans as offsets and flat positions."""
    if spans is None:
        return None
    if isinstance(spans, str) or not hasattr(spans, "__len__"):
        raise DtypeError(f"turn_spans: got {spans!r}, expected a list of (start, end) for each row")
    if len(spans) != rows:
        raise InputError(f"turn_spans: got {len(spans)} rows, expected {rows}")
    found = [_row_spans(f"turn_spans[{row}]", pairs) for row, pairs in enumerate(spans)]
    offsets = np.cumsum([0, *map(len, found)], dtype=np.int64)
    flat = [pairs + start(row) for row, pairs in enumerate(found)]
    return offsets, np.concatenate([np.zeros((0, 2), np.int64), *flat]).reshape(-1)


def _row_spans(name: str, pairs: Any) -> Array:
    own = integers(name, pairs)
    if own.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if own.ndim != 2 or own.shape[1] != 2:
        raise InputError(f"{name}: got shape {own.shape}, expected (turns, 2)")
    # Far from the largest integers, so that a row's start can be added.
    far = np.flatnonzero((own < 0) | (own > MAX_VALUES))
    if far.size:
        got = own.reshape(-1)[far[0]]
        raise InputError(f"{name}[{far[0] // 2}]: got {got}, expected a position in the row")
    return own
