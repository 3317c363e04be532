"""Files of trees: which format.

A format is a pair of functions, from a file to `Trees` and back: `objects` (JSON),
`tables`, `tensors`. Those of other projects are in `imports`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from apportion.errors import FileFormatError, InputError
from apportion.report.page import replace_file
from apportion.search import Search
from apportion.trees.about import MARK
from apportion.trees.imports import FORMATS, import_trees
from apportion.trees.objects import as_json, of_json
from apportion.trees.trees import Trees

ENDINGS = (".json", ".json.gz", ".parquet", ".arrow", ".safetensors")

Json = Any


def write_trees(path: str | PathLike[str], trees: Trees) -> None:
    """Write trees to a file, in one step.

    The format goes by the ending: `.json` and `.json.gz` for small trees, `.parquet`
    and `.arrow` (one row a node; need pyarrow) for data work, `.safetensors` for
    training. `read_trees` gives back the same numbers and texts from each.

    Raises:
        InputError: an unknown ending.
        ExtraMissingError: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    name = Path(fspath(path)).name
    if name.endswith((".parquet", ".arrow")):
        from apportion.trees.tables import table_bytes

        replace_file(path, table_bytes(trees, parquet=name.endswith(".parquet")))
    elif name.endswith(".safetensors"):
        from apportion.trees.tensors import tensor_bytes

        replace_file(path, tensor_bytes(trees))
    elif name.endswith((".json", ".json.gz")):
        content = json.dumps(as_json(trees), ensure_ascii=False, allow_nan=False)
        packed = content.encode("utf-8", "replace")
        replace_file(path, gzip.compress(packed, mtime=0) if name.endswith(".gz") else packed)
    else:
        raise InputError(f"{name}: unknown ending, expected one of {', '.join(ENDINGS)}")


def read_trees(path: str | PathLike[str], format: str = "auto") -> Trees:
    """Read trees from a file of ours or of another project.

    Args:
        path: what `write_trees` wrote, a folder that a search logs to, or JSON or JSON
            lines (`.gz` too) of AlphaMath, OpenR, ProRAG or PROPA.
        format: `"apportion"`, `"alphamath"`, `"openr"`, `"prorag"`, `"propa"`, or
            `"auto"`: told from the ending and the fields.

    Raises:
        FileFormatError: not readable; names the file, the tree and the field.
        ExtraMissingError: pyarrow is not installed.
    """
    known = ("auto", "apportion", *FORMATS)
    if format not in known:
        raise InputError(f"format: got {format!r}, expected one of {', '.join(known)}")
    file = Path(fspath(path))
    if file.is_dir():
        return Trees.from_search(Search.read(file))
    if file.name.endswith((".parquet", ".arrow")):
        from apportion.trees.tables import read_table

        return read_table(file)
    if file.name.endswith(".safetensors"):
        from apportion.trees.tensors import read_tensors

        return read_tensors(file)
    records = _records(file)
    first = next(records, None)
    if first is None:
        raise FileFormatError(f"{file}: is empty, expected trees")
    ours = isinstance(first[1], dict) and first[1].get("format") == MARK
    if format == "apportion" or (format == "auto" and ours):
        return of_json(str(file), first[1])

    def all_records() -> Iterator[tuple[str, Json]]:
        yield first
        yield from records

    return import_trees(all_records(), format)


def _records(path: Path) -> Iterator[tuple[str, Json]]:
    """Every object of a file of JSON, or of JSON lines, with its place for messages."""
    raw = path.read_bytes()
    try:
        content = (gzip.decompress(raw) if path.name.endswith(".gz") else raw).decode("utf-8")
    except (OSError, EOFError, ValueError) as error:
        raise FileFormatError(f"{path}: not readable as text: {error}") from error
    if not path.name.removesuffix(".gz").endswith(".jsonl"):
        try:
            value = _loaded(str(path), content)
        except FileFormatError:
            if "\n" not in content.strip():
                raise
        else:
            entries = value if isinstance(value, list) else [value]
            yield from ((f"{path}: entry {i}", entry) for i, entry in enumerate(entries))
            return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            place = f"{path}: line {number}"
            yield place, _loaded(place, line)


def _loaded(place: str, text: str) -> Json:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise FileFormatError(f"{place}: nested too deeply for Python's JSON reader") from error
    except ValueError as error:
        raise FileFormatError(f"{place}: not JSON: {error}") from error
