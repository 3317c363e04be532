"""A file of rollouts whatever its format: told by its content, read as records.

Depends on `lines`, `parquet`, `convert` and `schema`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any, Protocol

from apportion.errors import FileFormatError, InputError
from apportion.io import convert
from apportion.io.convert import Keys
from apportion.io.lines import Place, numbered, open_lines, parse
from apportion.io.parquet import Table
from apportion.io.schema import check

Record = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """A format: the fields by which it is told, and how a line of it becomes a record."""

    name: str
    fields: frozenset[str]
    convert: Callable[[Any, Keys, Place], Record]


def _ours(row: Any, keys: Keys, place: Place) -> Record:
    """A record as it is; `meta` may be JSON text, as in Parquet."""
    if keys.group is None and not keys.rewards and not isinstance(row.get("meta"), str):
        return row  # type: ignore[no-any-return]
    record = {**row}
    if keys.group is not None and keys.group in row:
        record["group"] = row[keys.group]
    if keys.rewards and keys.rewards[0] in row:
        record["outcome"] = row[keys.rewards[0]]
    if isinstance(row.get("meta"), str):
        try:
            record["meta"] = json.loads(row["meta"])
        except ValueError:
            place.fail("meta", f"got {row['meta'][:40]!r}, expected JSON")
    return record


FORMATS = (
    Format("apportion", frozenset({"turns"}), _ours),
    Format("openai", frozenset({"messages"}), convert.openai),
    Format("verl", frozenset({"input", "output"}), convert.verl),
    Format("trl", frozenset({"prompt", "completion"}), convert.trl),
)


class Source(Protocol):
    """A file that is opened anew for every pass."""

    path: Path
    seekable: bool
    """Whether `open` and `at` read a record at any place."""

    def records(self) -> Iterator[tuple[Place, Record]]:
        """Every record in the file's order, checked."""

    def progress(self) -> tuple[float, float]:
        """How much of the current pass is done, and of how much."""


class LineSource:
    """JSON lines."""

    def __init__(self, path: Path, form: Format, keys: Keys) -> None:
        """Opens nothing yet."""
        self.path, self._form, self._keys = path, form, keys
        self._size = path.stat().st_size
        self._file: IO[bytes] | None = None
        self._raw: IO[bytes] | None = None
        with path.open("rb") as file:
            self.seekable = file.read(2) != b"\x1f\x8b"
        self.offset = 0

    def records(self) -> Iterator[tuple[Place, Record]]:
        """Every record; `offset` is where the latest one starts."""
        with open_lines(self.path) as file:
            self._raw = getattr(file, "fileobj", None) or file
            for place, offset, line in numbered(file, str(self.path)):
                self.offset = offset
                yield place, self.record(line, place)
        self._raw = None

    def record(self, line: bytes, place: Place) -> Record:
        """The record of one line."""
        value = parse(line, place)
        if not isinstance(value, dict):
            place.fail("line", f"got {type(value).__name__}, expected an object")
        return check(self._form.convert(value, self._keys, place), place)

    def progress(self) -> tuple[float, float]:
        """Bytes of the file, packed ones where it is."""
        return (self._raw.tell() if self._raw else self._size, self._size)


class TableSource:
    """Parquet."""

    seekable = False

    def __init__(self, path: Path, table: Table, form: Format, keys: Keys) -> None:
        """Takes the table as it was opened to tell the format."""
        self.path, self._table, self._form, self._keys = path, table, form, keys
        self._row = 0

    def records(self) -> Iterator[tuple[Place, Record]]:
        """Every record."""
        for place, row in self._table.rows():
            self._row = place.number
            yield place, check(self._form.convert(row, self._keys, place), place)

    def progress(self) -> tuple[float, float]:
        """Rows."""
        return self._row, self._table.size


def open_source(
    path: str | PathLike[str],
    format: str = "auto",
    group_key: str | None = None,
    reward_key: str | Sequence[str] | None = None,
) -> LineSource | TableSource:
    """The file as a source of records, its format told where it is `"auto"`."""
    names = [form.name for form in FORMATS]
    if format != "auto" and format not in names:
        raise InputError(f"format: got {format!r}, expected auto or one of {', '.join(names)}")
    rewards = (reward_key,) if isinstance(reward_key, str) else tuple(reward_key or ())
    file = Path(fspath(path))
    if file.is_dir():
        raise FileFormatError(f"{file}: is a folder, expected a file")
    with file.open("rb") as opened:
        packed = opened.read(4) == b"PAR1"
    if packed:
        table = Table(file)
        keys = Keys(group_key, rewards, table.numbers)
        form = _chosen(format, table.columns, f"{file}")
        return TableSource(file, table, form, keys)
    place, row = _first_row(file)
    form = _chosen(format, list(row), str(place))
    scores = tuple(n for n, v in row.items() if isinstance(v, int | float))
    return LineSource(file, form, Keys(group_key, rewards, scores))


def _first_row(path: Path) -> tuple[Place, dict[str, Any]]:
    with open_lines(path) as file:
        for place, _, line in numbered(file, str(path)):
            row = parse(line, place)
            if not isinstance(row, dict):
                place.fail("line", f"got {type(row).__name__}, expected one object a line")
            return place, row
    raise FileFormatError(f"{path}: empty, expected at least one trajectory")


def _chosen(format: str, fields: Sequence[str], where: str) -> Format:
    """The format of that name, or the first one whose fields are all there."""
    for form in FORMATS:
        if format == form.name or (format == "auto" and form.fields <= set(fields)):
            return form
    known = "; ".join(f"{form.name} ({', '.join(sorted(form.fields))})" for form in FORMATS)
    raise FileFormatError(
        f"{where}: unknown format: got the fields {', '.join(fields)}; expected those of {known}"
    )
