"""Whole groups out of a file of any size. Depends on `source`.

A group's trajectories may lie anywhere. The first pass checks every record and
notes its offset and group; the second reads group by group. Kept in memory are
20 bytes a trajectory and each group's key once; of the records, those of one
batch.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from apportion import encode
from apportion.absent import USUAL, NanPolicy
from apportion.arrays import Array
from apportion.errors import FileFormatError
from apportion.io.lines import Place
from apportion.io.schema import trajectory_columns
from apportion.io.source import LineSource, TableSource
from apportion.rollouts import Rollouts

BATCH_BYTES = 4 * 2**20
"""Bytes of lines that make a batch; a group is never split."""

Record = dict[str, Any]
Tick = Callable[[float, float], None]


def _no_tick(done: float, total: float) -> None:
    pass


class GroupedFile:
    """The index of a file by group. Close it, or use it in a `with` block.

    A source that cannot be read at any place is unpacked into a temporary file.
    """

    def __init__(self, source: LineSource | TableSource, tick: Tick = _no_tick) -> None:
        """Makes the first pass; `tick(done, total)` is called as it goes."""
        self._source = source
        self._spool: IO[bytes] | None = None
        self._unit = "line" if isinstance(source, LineSource) else "row"
        self._offsets, self._numbers = array("q"), array("q")
        self._groups = array("i")
        self._columns = _Columns()
        try:
            self._index(tick)
            self._file: IO[bytes] = self._spool or Path(source.path).open("rb")  # noqa: SIM115
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> GroupedFile:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self.close()

    def close(self) -> None:
        """Close the file, and remove the temporary one."""
        for file in (self._spool, getattr(self, "_file", None)):
            if file is not None:
                file.close()

    def __len__(self) -> int:
        """Number of trajectories."""
        return len(self._groups)

    def _index(self, tick: Tick) -> None:
        keys: dict[str | int, int] = {}
        source = self._source
        if not (isinstance(source, LineSource) and source.seekable):
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115
        for place, record in source.records():
            if self._spool is None:
                assert isinstance(source, LineSource)
                self._offsets.append(source.offset)
            else:
                self._offsets.append(self._spool.tell())
                self._spool.write(json.dumps(record).encode() + b"\n")
            self._numbers.append(place.number)
            self._groups.append(keys.setdefault(record["group"], len(keys)))
            self._columns.add(record, place)
            tick(*source.progress())
        if not keys:
            raise FileFormatError(f"{source.path}: empty, expected at least one trajectory")

    def batches(
        self, at_least: int = BATCH_BYTES, nan: NanPolicy = USUAL, tick: Tick = _no_tick
    ) -> Iterator[Rollouts]:
        """Whole groups, by first appearance; a batch ends once it has so many bytes."""
        groups = np.frombuffer(self._groups, dtype=np.int32)
        order = np.argsort(groups, kind="stable")
        offsets = np.frombuffer(self._offsets, dtype=np.int64)
        end = self._file.seek(0, 2)
        sizes = np.cumsum(np.diff(offsets, append=end)[order])
        start = 0
        for stop in _cuts(groups[order], sizes, at_least):
            yield self._rollouts(order[start:stop].tolist(), nan)
            start = stop
            tick(float(sizes[stop - 1]), float(sizes[-1]))

    def head(self, trajectories: int) -> Rollouts:
        """The first groups, whole ones, until there are so many trajectories."""
        groups = np.frombuffer(self._groups, dtype=np.int32)
        order = np.argsort(groups, kind="stable")
        last = groups[order[min(trajectories, len(order)) - 1]]
        return self._rollouts(order[groups[order] <= last].tolist(), USUAL)

    def _rollouts(self, rows: list[int], nan: NanPolicy) -> Rollouts:
        records = [self._read(row) for row in rows]
        return Rollouts._from_records(records, lambda i: str(self._place(rows[i])), nan)

    def _place(self, row: int) -> Place:
        return Place(str(self._source.path), self._numbers[row], self._unit)

    def _read(self, row: int) -> Record:
        self._file.seek(self._offsets[row])
        line = self._file.readline()
        if self._spool is None:
            assert isinstance(self._source, LineSource)
            record = self._source.record(line, self._place(row))
        else:
            record = json.loads(line)
        return self._columns.complete(record)


def _cuts(groups: Array, sizes: Array, at_least: int) -> Iterator[int]:
    """Ends of batches: where a group ends and the batch has its bytes; and the end."""
    ends = np.append(np.flatnonzero(np.diff(groups)) + 1, len(groups))
    begun = 0
    for end in ends.tolist():
        if sizes[end - 1] - begun >= at_least or end == len(groups):
            yield end
            begun = sizes[end - 1]


class _Columns:
    """Which fields occur in the file, so that a batch has the columns of the whole file."""

    def __init__(self) -> None:
        self._turn_fields: set[str] = set()
        self._all_log_probs = True
        self._fields: dict[str, Place] = {}

    def add(self, record: Record, place: Place) -> None:
        """Notes the fields of a record; a column that only some records have is an error."""
        for name in record.keys() & trajectory_columns():
            self._fields.setdefault(name, place)
        for name, first in self._fields.items():
            if name not in record:
                place.fail(name, f"missing, but {first} has it")
        for turn in record["turns"]:
            self._turn_fields |= turn.keys()
            if turn.get("tokens") and turn.get("log_probs") is None:
                self._all_log_probs = False

    def complete(self, record: Record) -> Record:
        """The record with every turn column of the file, without a value where it had none."""
        names = {"reward", "anchor", "observation", *encode.catalogue()} & self._turn_fields
        for turn in record["turns"]:
            for name in names - turn.keys():
                turn[name] = None
            if not self._all_log_probs:
                turn.pop("log_probs", None)
        return record
