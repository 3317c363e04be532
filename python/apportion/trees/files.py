"""Files of trees: which format, and ours as JSON. Depends on `data`; other formats beside it.

A format is a pair of functions, from a file to `Trees` and back. Those of other
projects are in `imports`, those of tables and tensors in `tables` and `tensors`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from apportion.arrays import Array
from apportion.errors import ApportionError, FileFormatError, InputError
from apportion.trees.data import Trees
from apportion.trees.imports import FORMATS, import_trees

MARK = "apportion-trees"
VERSION = 1
ENDINGS = (".json", ".json.gz", ".parquet", ".arrow", ".safetensors")
DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float32", "float64")  # fmt: skip

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
    from apportion.report.page import replace_file

    name = Path(fspath(path)).name
    if name.endswith((".parquet", ".arrow")):
        from apportion.trees.tables import table_bytes

        replace_file(path, table_bytes(trees, parquet=name.endswith(".parquet")))
    elif name.endswith(".safetensors"):
        from apportion.trees.tensors import tensor_bytes

        replace_file(path, tensor_bytes(trees))
    elif name.endswith((".json", ".json.gz")):
        content = json.dumps(_as_json(trees), ensure_ascii=False, allow_nan=False)
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
        from apportion.tree import Search

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
        return _of_json(str(file), first[1])

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


def described(trees: Trees) -> dict[str, Json]:
    """What a file says of the whole, beside the columns."""
    return {
        "format": MARK,
        "version": VERSION,
        "names": None if trees.names is None else list(trees.names),
        "meta": dict(trees.meta),
        "timeline": {name: list(map(float, of)) for name, of in trees.timeline.items()},
    }


def restored(place: str, said: Json, **columns: Any) -> Trees:
    """Trees from columns and what the file says of the whole."""
    if not isinstance(said, dict) or said.get("format") != MARK:
        raise FileFormatError(f"{place}: is no file of trees: it does not say {MARK!r}")
    if said.get("version") != VERSION:
        got = said.get("version")
        raise FileFormatError(f"{place}: version {got!r} of the format, expected {VERSION}")
    names = said.get("names")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise FileFormatError(f"{place}: names: expected a list of texts or null")
    about: dict[str, Any] = {name: said.get(name) for name in ("meta", "timeline")}
    for name, value in about.items():
        if not isinstance(value, dict):
            got = type(value).__name__
            raise FileFormatError(f"{place}: {name}: got {got}, expected an object")
    try:
        return Trees(**columns, names=names, **about)
    except ApportionError as error:
        raise FileFormatError(f"{place}: {error}") from error


def _as_json(trees: Trees) -> Json:
    return {
        **described(trees),
        "dtypes": {name: str(of.dtype) for name, of in trees.columns.items()},
        "trees": [
            {
                "parent": trees.parent[start:end].tolist(),
                **{name: _plain(of[start:end]) for name, of in trees.columns.items()},
                **({} if trees.texts is None else {"text": list(trees.texts[start:end])}),
            }
            for start, end in zip(
                trees.offsets[:-1].tolist(), trees.offsets[1:].tolist(), strict=True
            )
        ],
    }


def _plain(values: Array) -> list[Json]:
    """Numbers of a column; JSON has no NaN, and infinities become texts."""
    numbers: list[Json] = values.tolist()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return [None if v != v else str(v) if abs(v) == np.inf else v for v in numbers]
    return numbers


def _of_json(place: str, value: Json) -> Trees:
    if not isinstance(value, dict):
        raise FileFormatError(f"{place}: got {type(value).__name__}, expected an object")
    dtypes, trees = value.get("dtypes"), value.get("trees")
    if not isinstance(dtypes, dict) or not all(d in DTYPES for d in dtypes.values()):
        raise FileFormatError(f"{place}: dtypes: expected an object of NumPy's types of numbers")
    if not isinstance(trees, list) or not all(isinstance(tree, dict) for tree in trees):
        raise FileFormatError(f"{place}: trees: expected a list of objects")
    sizes = [len(_listed(place, i, tree, "parent")) for i, tree in enumerate(trees)]
    parent = _joined(place, trees, "parent", "int64", sizes)
    columns = {n: _joined(place, trees, n, dtype, sizes) for n, dtype in dtypes.items()}
    texts = None
    if any("text" in tree for tree in trees):
        texts = [t for i, tree in enumerate(trees) for t in _listed(place, i, tree, "text")]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise FileFormatError(f"{place}: text: expected texts or nulls")
    offsets = np.cumsum([0, *sizes])
    return restored(place, value, offsets=offsets, parent=parent, columns=columns, texts=texts)


def _listed(place: str, index: int, tree: Mapping[str, Json], name: str) -> list[Json]:
    values = tree.get(name)
    if not isinstance(values, list):
        got = "nothing" if values is None else type(values).__name__
        raise FileFormatError(f"{place}: trees[{index}].{name}: got {got}, expected a list")
    return values


def _joined(
    place: str, trees: list[Mapping[str, Json]], name: str, dtype: str, sizes: list[int]
) -> Array:
    parts = [np.zeros(0, dtype=dtype)]
    for index, (tree, size) in enumerate(zip(trees, sizes, strict=True)):
        where = f"{place}: trees[{index}].{name}"
        values = _listed(place, index, tree, name)
        if len(values) != size:
            raise FileFormatError(f"{where}: got {len(values)} values, expected {size}")
        floating = dtype.startswith("float")
        try:
            numbers = [np.nan if floating and v is None else v for v in values]
            parts.append(np.array(numbers, dtype=dtype))
        except (TypeError, ValueError, OverflowError) as error:
            raise FileFormatError(f"{where}: expected {dtype}: {error}") from error
    return np.concatenate(parts)
