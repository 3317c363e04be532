"""Trees as a table, one row a node: Parquet and Arrow, through pyarrow."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from apportion.errors import ExtraMissingError, FileFormatError
from apportion.trees.about import described, restored
from apportion.trees.trees import Trees

KEY = b"apportion"
OWN = ("tree", "node", "parent", "depth", "text")


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ExtraMissingError(
            'Parquet and Arrow need pyarrow, which is not installed: pip install "apportion[cli]"'
        ) from error
    return pyarrow


def table_bytes(trees: Trees, *, parquet: bool) -> bytes:
    """The file's content: columns `tree`, `node`, `parent`, `depth`, the further ones, `text`."""
    pa = _pyarrow()
    sizes = np.diff(trees.offsets)
    columns: dict[str, Any] = {
        "tree": np.repeat(np.arange(len(trees)), sizes),
        "node": np.arange(trees.num_nodes) - np.repeat(trees.offsets[:-1], sizes),
        "parent": trees.parent,
        "depth": trees.depth,
        **{name: of for name, of in trees.columns.items() if name not in OWN},
    }
    if trees.texts is not None:
        columns["text"] = pa.array(list(trees.texts), pa.string())
    table = pa.table(columns)
    table = table.replace_schema_metadata({KEY: json.dumps(described(trees)).encode()})
    sink = io.BytesIO()
    if parquet:
        pa.parquet.write_table(table, sink, compression="zstd")
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def read_table(path: Path) -> Trees:
    """The trees of a Parquet or Arrow file of ours."""
    pa = _pyarrow()
    try:
        if path.name.endswith(".parquet"):
            table = pa.parquet.read_table(path)
        else:
            with pa.ipc.open_file(path) as reader:
                table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise FileFormatError(f"{path}: not readable as a table: {error}") from error
    said = (table.schema.metadata or {}).get(KEY)
    if said is None or not {"tree", "parent"} <= set(table.column_names):
        raise FileFormatError(f"{path}: holds no trees that apportion wrote")
    arrays = {n: table[n] for n in table.column_names if n not in OWN}
    columns = {name: _numbers(pa, path, name, of) for name, of in arrays.items()}
    tree = _numbers(pa, path, "tree", table["tree"])
    if len(tree) and (tree[0] != 0 or not np.isin(np.diff(tree), (0, 1)).all()):
        raise FileFormatError(f"{path}: tree: expected 0, 1, 2, ..., each in one piece")
    count = int(tree[-1]) + 1 if len(tree) else 0
    return restored(
        str(path),
        _about(path, said),
        offsets=np.searchsorted(tree, np.arange(count + 1)),
        parent=_numbers(pa, path, "parent", table["parent"]),
        columns=columns,
        texts=table["text"].to_pylist() if "text" in table.column_names else None,
    )


def _about(path: Path, said: bytes) -> Any:
    try:
        return json.loads(said)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: what it says of itself is damaged: {error}") from error


def _numbers(pa: Any, path: Path, name: str, column: Any) -> Any:
    kind, types = column.type, pa.types
    if not any(t(kind) for t in (types.is_integer, types.is_floating, types.is_boolean)):
        raise FileFormatError(f"{path}: {name}: got {kind}, expected numbers")
    if column.null_count:
        raise FileFormatError(f"{path}: {name}: got nulls, expected numbers")
    return column.to_numpy()
