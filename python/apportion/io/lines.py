"""JSON lines: reading with limits, and errors that name file and line. Standard library only."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from apportion.errors import FileFormatError

MAX_LINE = 64 * 2**20
"""Bytes in a line. A longer one is more likely a file of another kind."""
MAX_DEPTH = 100
"""Objects and lists within each other."""

Json = Any


@dataclass(frozen=True)
class Place:
    """Where in a file something stands, for messages."""

    path: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        """`file:3` for lines, as compilers write it; `file, row 3` for rows."""
        if self.unit == "line":
            return f"{self.path}:{self.number}"
        return f"{self.path}, {self.unit} {self.number}"

    def fail(self, field: str, message: str) -> NoReturn:
        """Raise the error that names this place and a field of it."""
        raise FileFormatError(f"{self}: {field}: {message}")


def open_lines(path: Path) -> IO[bytes]:
    """The file for reading bytes, unpacked if it is gzip's by its first bytes."""
    file = path.open("rb")
    magic = file.read(2)
    file.seek(0)
    if magic != b"\x1f\x8b":
        return file
    file.close()
    return gzip.open(path, "rb")  # type: ignore[return-value]


def numbered(file: IO[bytes], path: str) -> Iterator[tuple[Place, int, bytes]]:
    """Place, offset and bytes of every line that is not blank."""
    number, offset = 0, 0
    try:
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise FileFormatError(
                    f"{path}:{number}: line: got more than {MAX_LINE >> 20} MB, "
                    "expected one trajectory a line"
                )
            if not line.isspace():
                yield Place(path, number), offset, line
            offset += len(line)
    except (EOFError, gzip.BadGzipFile) as error:
        raise FileFormatError(f"{path}: after line {number}: broken gzip data: {error}") from error


def parse(line: bytes, place: Place) -> Json:
    """The value of a line. NaN is read as such; infinity is refused."""

    def constant(name: str) -> float:
        if name == "NaN":
            return float("nan")
        place.fail("line", f"got {name}, expected finite numbers")

    try:
        text = line.rstrip().decode("utf-8-sig" if place.number == 1 else "utf-8")
        value = json.loads(text, parse_constant=constant)
    except UnicodeDecodeError as error:
        place.fail("line", f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        place.fail("line", f"not JSON at column {error.pos + 1}: {error.msg}")
    except RecursionError:
        place.fail("line", f"nested more than {MAX_DEPTH} deep")
    except FileFormatError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        place.fail("line", f"not readable: {error}")
    # The depth is at most the number of brackets, so that most lines need no walk.
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        place.fail("line", f"nested more than {MAX_DEPTH} deep")
    if _SURROGATE.search(line):
        _refuse_lone_surrogates(value, place)
    return value


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _refuse_lone_surrogates(value: Json, place: Place) -> None:
    """Half of a surrogate pair is no character and cannot be written again."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        place.fail("line", f"got {half}, half of a surrogate pair, expected whole characters")


def _depth(value: Json) -> int:
    """How deep objects and lists lie within each other, without recursion."""
    depth, level = 0, [value]
    while level:
        inner: list[Json] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                inner.extend(v for v in item if isinstance(v, dict | list))
        depth += any(isinstance(item, dict | list) for item in level)
        level = inner
    return depth
