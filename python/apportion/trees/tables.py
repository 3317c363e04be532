"""Trees as a table, one row a node: Parquet and Arrow, through pyarrow.

Rows of any length are lists. The rollouts that began at a node are its list of objects, of
which `order` says where each stands among the rollouts of all trees.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from apportion.arrays import Array
from apportion.errors import ExtraMissingError, FileFormatError
from apportion.trees.about import described, restored
from apportion.trees.ragged import Ragged, TreeRollouts
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
    """The file's content: columns `tree`, `node`, `parent`, `depth`, the further ones, `text`,
    `rollouts`."""
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
    columns |= {name: _list(pa, of) for name, of in trees.ragged.items()}
    if trees.rollouts is not None:
        columns["rollouts"] = _rollout_lists(pa, trees.rollouts, trees.offsets)
    table = pa.table(columns)
    table = table.replace_schema_metadata({KEY: json.dumps(described(trees)).encode()})
    sink = io.BytesIO()
    if parquet:
        pa.parquet.write_table(table, sink, compression="zstd")
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def _list(pa: Any, rows: Ragged) -> Any:
    return pa.LargeListArray.from_arrays(pa.array(rows.offsets), pa.array(rows.flat))


def _rollout_lists(pa: Any, rollouts: TreeRollouts, nodes: Array) -> Any:
    """For each node the rollouts that began there."""
    starts = np.repeat(nodes[:-1], np.diff(rollouts.offsets))
    order = np.argsort(rollouts.node + starts, kind="stable")
    fields = {name: pa.array(of[order]) for name, of in rollouts.columns.items()}
    fields |= {name: _list(pa, of.take(order)) for name, of in rollouts.ragged.items()}
    fields["order"] = pa.array(order)
    counts = np.bincount(rollouts.node + starts, minlength=int(nodes[-1]))
    structs = pa.StructArray.from_arrays(list(fields.values()), list(fields))
    return pa.LargeListArray.from_arrays(pa.array(np.cumsum([0, *counts])), structs)


def read_table(path: Path) -> Trees:
    """The trees of a Parquet or Arrow file of ours."""
    try:
        return _read(_pyarrow(), path)
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: a name is damaged: {error}") from error


def _read(pa: Any, path: Path) -> Trees:
    path.stat()  # of a file that is not there pyarrow would say that it is no table
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
    lists = {n for n in table.column_names if _is_list(pa, table[n].type)}
    arrays = {n: table[n] for n in table.column_names if n not in (*OWN, *lists)}
    columns = {name: _numbers(pa, path, name, of) for name, of in arrays.items()}
    rows = {n: _rows(pa, path, n, table[n].combine_chunks()) for n in lists - {"rollouts"}}
    tree = _numbers(pa, path, "tree", table["tree"])
    if len(tree) and (tree[0] != 0 or not np.isin(np.diff(tree), (0, 1)).all()):
        raise FileFormatError(f"{path}: tree: expected 0, 1, 2, ..., each in one piece")
    count = int(tree[-1]) + 1 if len(tree) else 0
    offsets = np.searchsorted(tree, np.arange(count + 1))
    rollouts = None
    if "rollouts" in lists:
        rollouts = _rollouts(pa, path, table["rollouts"].combine_chunks(), offsets)
    return restored(
        str(path),
        _about(path, said),
        offsets=offsets,
        parent=_numbers(pa, path, "parent", table["parent"]),
        columns=columns,
        texts=table["text"].to_pylist() if "text" in table.column_names else None,
        ragged=rows,
        rollouts=rollouts,
    )


def _is_list(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _bounds(path: Path, name: str, lists: Any) -> tuple[Array, Any]:
    """Offsets from 0, and the values between the first and the last of them."""
    if lists.null_count:
        raise FileFormatError(f"{path}: {name}: got nulls, expected lists")
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], lists.values.slice(offsets[0], offsets[-1] - offsets[0])


def _rows(pa: Any, path: Path, name: str, lists: Any) -> Ragged:
    offsets, flat = _bounds(path, name, lists)
    return Ragged(_numbers(pa, path, name, flat), offsets)


def _rollouts(pa: Any, path: Path, lists: Any, nodes: Array) -> TreeRollouts:
    """Rollouts in their order, from those of each node."""
    ends, structs = _bounds(path, "rollouts", lists)
    if not pa.types.is_struct(structs.type):
        raise FileFormatError(f"{path}: rollouts: got {structs.type}, expected objects")
    names = [field.name for field in structs.type]
    parts = dict(zip(names, structs.flatten(), strict=True))
    if "order" not in parts:
        raise FileFormatError(f"{path}: rollouts.order: is not there")
    order = _numbers(pa, path, "rollouts.order", parts.pop("order"))
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise FileFormatError(f"{path}: rollouts.order: expected each of 0 to {len(order) - 1}")
    found = np.argsort(order)
    at = np.repeat(np.arange(len(ends) - 1), np.diff(ends))[found]
    tree = np.searchsorted(nodes, at, side="right") - 1
    if (np.diff(tree) < 0).any():
        raise FileFormatError(f"{path}: rollouts.order: expected those of a tree in one piece")
    lists_of = {name for name, of in parts.items() if _is_list(pa, of.type)}
    return TreeRollouts(
        np.searchsorted(tree, np.arange(len(nodes))),
        at - nodes[tree],
        {
            name: _numbers(pa, path, f"rollouts.{name}", of)[found]
            for name, of in parts.items()
            if name not in lists_of
        },
        {name: _rows(pa, path, f"rollouts.{name}", parts[name]).take(found) for name in lists_of},
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
    return np.asarray(column)
