"""Credit to a file, in one step or not at all. Depends on `rows`; pyarrow only for Parquet."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import tempfile
from collections.abc import Mapping
from io import TextIOWrapper
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

from apportion import _core
from apportion.credit import Credit
from apportion.errors import InputError
from apportion.io.parquet import pyarrow
from apportion.io.rows import Rows, rows_of
from apportion.methods import methods

Json = Any


def described(credit: Credit, source: str | None = None) -> dict[str, Json]:
    """What a file of credit says of itself; see `described_run`."""
    return described_run(credit.method, credit.options, credit.like, source)


def described_run(
    method: str, options: Mapping[str, Any], like: str | None, source: str | None
) -> dict[str, Json]:
    """The method with all its options as they were in force, and where rollouts came from."""
    card = methods().get(method)
    defaults = {o.name: o.default for o in card.options} if card else {}
    preset = card.presets[like] if card and like else {}
    return {
        "apportion": _core.__version__,
        "method": method,
        "like": like,
        "options": {**defaults, **preset, **options},
        "source": source,
    }


class Sink(Protocol):
    """Writes rows to an open file."""

    def write(self, rows: Rows) -> None:
        """Append rows."""

    def close(self) -> None:
        """Write what is left, and close the file."""


class CreditWriter:
    """Writes credit batch by batch, in a `with` block.

    The file is written beside its place; at the end of the block it is flushed to
    disk and renamed. On any exception, Ctrl-C included, it is removed.
    """

    def __init__(
        self, path: str | PathLike[str], meta: Mapping[str, Json], format: str = "auto"
    ) -> None:
        """Opens nothing yet."""
        self._path = Path(fspath(path)).resolve()
        self._meta = meta
        self._format = _format_of(self._path, format)
        if self._format == "parquet":
            pyarrow()

    def __enter__(self) -> CreditWriter:
        """Opens the temporary file."""
        try:
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        except OSError as error:
            error.filename = str(self._path)  # the name that the caller knows
            raise
        os.close(handle)
        self._temporary = Path(name)
        try:
            self._sink: Sink = _SINKS[self._format](self._temporary, self._meta)
        except BaseException:
            self._temporary.unlink()
            raise
        return self

    def write(self, credit: Credit) -> None:
        """Append the rows of a credit."""
        for rows in rows_of(credit).slices():
            self._sink.write(rows)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Puts the file in its place, or removes it."""
        try:
            if kind is None:
                self._sink.close()
                _into_place(self._temporary, self._path)
            else:
                with contextlib.suppress(Exception):  # the first error is the one to show
                    self._sink.close()
        finally:
            self._temporary.unlink(missing_ok=True)


def _format_of(path: Path, format: str) -> str:
    if format in _SINKS:
        return format
    if format != "auto":
        raise InputError(f"format: got {format!r}, expected auto or one of {', '.join(_SINKS)}")
    for ending, name in ((".parquet", "parquet"), (".jsonl", "jsonl"), (".jsonl.gz", "jsonl.gz")):
        if path.name.endswith(ending):
            return name
    raise InputError(f"{path.name}: unknown ending, expected .parquet, .jsonl or .jsonl.gz")


def _into_place(temporary: Path, path: Path) -> None:
    """Flush to disk, give the usual rights, rename."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    temporary.replace(path)


class _Lines:
    """JSON lines: first `{"meta": ...}`, then one object a trajectory."""

    def __init__(self, path: Path, meta: Mapping[str, Json], packed: bool = False) -> None:
        # mtime=0: the same credit gives the same bytes.
        raw: Any = gzip.GzipFile(path, "wb", mtime=0) if packed else path.open("wb")
        self._file = TextIOWrapper(raw, encoding="utf-8")
        self._put({"meta": dict(meta)})

    def _put(self, value: Json) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")

    def write(self, rows: Rows) -> None:
        turns, tokens = rows.turn_offsets.tolist(), rows.token_offsets.tolist()
        parts = [(n, p.by_turn.tolist(), p.by_token.tolist()) for n, p in rows.parts.items()]
        bare = rows.without_tokens.tolist()
        for index, outcome in enumerate(rows.outcomes.tolist()):
            first, last = turns[index], turns[index + 1]
            row: dict[str, Json] = {
                "group": rows.groups[index],
                "trajectory": rows.names[index],
                "outcome": None if math.isnan(outcome) else outcome,
            }
            for name, by_turn, by_token in parts:
                row[f"turn_{name}"] = by_turn[first:last]
                if not bare[index]:
                    row[f"token_{name}"] = [
                        by_token[tokens[k] : tokens[k + 1]] for k in range(first, last)
                    ]
            self._put(row)

    def close(self) -> None:
        self._file.close()


class _Packed(_Lines):
    """JSON lines, compressed."""

    def __init__(self, path: Path, meta: Mapping[str, Json]) -> None:
        super().__init__(path, meta, packed=True)


class _Parquet:
    """Parquet: lists of numbers, nested by turn for tokens; the meta in the file's metadata."""

    def __init__(self, path: Path, meta: Mapping[str, Json]) -> None:
        self._arrow = pyarrow()
        self._path = path
        self._meta = {"apportion": json.dumps(dict(meta), ensure_ascii=False)}
        self._writer: Any = None

    def write(self, rows: Rows) -> None:
        pa = self._arrow
        turns, bare = pa.array(rows.turn_offsets, pa.int32()), pa.array(rows.without_tokens)
        columns = {
            "group": pa.array([str(group) for group in rows.groups], pa.string()),
            "trajectory": pa.array(rows.names, pa.string()),
            "outcome": pa.array(rows.outcomes, pa.float64(), from_pandas=True),
        }
        tokens = pa.array(rows.token_offsets, pa.int32())
        for name, part in rows.parts.items():
            columns[f"turn_{name}"] = pa.ListArray.from_arrays(turns, pa.array(part.by_turn))
            inner = pa.ListArray.from_arrays(tokens, pa.array(part.by_token))
            columns[f"token_{name}"] = pa.ListArray.from_arrays(turns, inner, mask=bare)
        table = pa.table(columns).replace_schema_metadata(self._meta)
        if self._writer is None:
            self._writer = pa.parquet.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


_SINKS: dict[str, Any] = {"parquet": _Parquet, "jsonl": _Lines, "jsonl.gz": _Packed}
