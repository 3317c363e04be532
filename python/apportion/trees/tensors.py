"""Trees as safetensors: columns, texts as bytes. Written and read without that package.

The format: 8 bytes, the length of a JSON header; the header, which says of each tensor
its type, shape and place; the tensors' bytes, one after the other. Texts are UTF-8 in
`text.bytes`, text `i` from `text.offsets[i]` to `text.offsets[i + 1]`, and absent where
`text.present[i]` is 0. Rows of any length are `rows.<name>`, row `i` from
`row_offsets.<name>[i]` to `row_offsets.<name>[i + 1]`; rollouts have tensors of the same
names after `rollouts.`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apportion.arrays import Array
from apportion.errors import FileFormatError
from apportion.trees.about import described, restored
from apportion.trees.ragged import Ragged, TreeRollouts
from apportion.trees.trees import Trees

TYPES = {
    "BOOL": np.dtype("?"), "I8": np.dtype("i1"), "U8": np.dtype("u1"),
    "I16": np.dtype("<i2"), "U16": np.dtype("<u2"), "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"), "I64": np.dtype("<i8"), "U64": np.dtype("<u8"),
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
}  # fmt: skip
# Before the names of columns, so that no name can be in the way.
COLUMN, ROWS, ROW_OFFSETS, ROLLOUTS = "column.", "rows.", "row_offsets.", "rollouts."
MAX_HEADER = 100_000_000  # as the format's own limit


def tensor_bytes(trees: Trees) -> bytes:
    """The file's content."""
    tensors: dict[str, Array] = {"offsets": trees.offsets, "parent": trees.parent}
    tensors |= _named(trees.columns, trees.ragged)
    if trees.rollouts is not None:
        of_rollouts = _named(trees.rollouts.columns, trees.rollouts.ragged)
        of_rollouts |= {"offsets": trees.rollouts.offsets, "node": trees.rollouts.node}
        tensors |= {ROLLOUTS + name: of for name, of in of_rollouts.items()}
    if trees.texts is not None:
        texts = [(text or "").encode("utf-8", "replace") for text in trees.texts]
        tensors["text.bytes"] = np.frombuffer(b"".join(texts), dtype=np.uint8)
        tensors["text.offsets"] = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        tensors["text.present"] = np.array([t is not None for t in trees.texts], dtype=np.uint8)
    names = {dtype: name for name, dtype in TYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"apportion": json.dumps(described(trees))}}
    parts, end = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize):
        fitting = tensor.dtype.newbyteorder("<")
        raw = np.ascontiguousarray(tensor, dtype=fitting).tobytes()
        place = [end, end + len(raw)]
        kind = names[fitting]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": place}
        parts.append(raw)
        end += len(raw)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def _named(columns: Mapping[str, Array], rows: Mapping[str, Ragged]) -> dict[str, Array]:
    return {
        **{COLUMN + name: of for name, of in columns.items()},
        **{ROWS + name: of.flat for name, of in rows.items()},
        **{ROW_OFFSETS + name: of.offsets for name, of in rows.items()},
    }


def read_tensors(path: Path) -> Trees:
    """The trees of a safetensors file of ours."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > min(MAX_HEADER, len(raw) - 8):
        raise FileFormatError(f"{path}: not safetensors: the header does not fit into the file")
    try:
        header = json.loads(raw[8 : 8 + size])
        said = json.loads(header.pop("__metadata__")["apportion"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileFormatError(f"{path}: holds no trees that apportion wrote") from error
    data = memoryview(raw)[8 + size :]
    tensors = {name: _tensor(f"{path}: {name}", data, of) for name, of in header.items()}
    for name in ("offsets", "parent"):
        if name not in tensors:
            raise FileFormatError(f"{path}: {name}: is not there")
    return restored(
        str(path),
        said,
        offsets=tensors["offsets"],
        parent=tensors["parent"],
        columns=_under(tensors, COLUMN),
        texts=_texts(path, tensors) if "text.bytes" in tensors else None,
        ragged=_ragged(path, tensors),
        rollouts=_rollouts(path, _under(tensors, ROLLOUTS)),
    )


def _under(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Those whose names begin with a prefix, by what follows."""
    n = len(prefix)
    return {name[n:]: of for name, of in tensors.items() if name.startswith(prefix)}


def _ragged(path: Path, tensors: Mapping[str, Array]) -> dict[str, Ragged]:
    flat, offsets = _under(tensors, ROWS), _under(tensors, ROW_OFFSETS)
    for name in flat.keys() ^ offsets.keys():
        raise FileFormatError(f"{path}: rows.{name}: expected both the rows and their offsets")
    return {name: Ragged(of, offsets[name]) for name, of in flat.items()}


def _rollouts(path: Path, tensors: Mapping[str, Array]) -> TreeRollouts | None:
    if not tensors:
        return None
    for name in ("offsets", "node"):
        if name not in tensors:
            raise FileFormatError(f"{path}: rollouts.{name}: is not there")
    columns, rows = _under(tensors, COLUMN), _ragged(path, tensors)
    return TreeRollouts(tensors["offsets"], tensors["node"], columns, rows)


def _tensor(place: str, data: memoryview, said: Any) -> Array:
    """One tensor; whatever the header says is checked against the file's size."""
    try:
        dtype = TYPES[said["dtype"]]
        shape, (start, end) = [int(n) for n in said["shape"]], said["data_offsets"]
        fits = 0 <= start <= end <= len(data) and min([0, *shape]) >= 0
        if not fits or math.prod(shape) * dtype.itemsize != end - start:
            raise ValueError(f"shape {shape} at {start} to {end} of {len(data)} bytes")
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{place}: expected a tensor in the file, got {error}") from error
    return np.frombuffer(data[start:end], dtype=dtype).reshape(shape)


def _texts(path: Path, tensors: dict[str, Array]) -> list[str | None]:
    try:
        offsets, present = tensors["text.offsets"], tensors["text.present"]
        raw = tensors["text.bytes"].tobytes()
        if len(offsets) != len(present) + 1 or offsets[0] != 0 or offsets[-1] != len(raw):
            raise ValueError("offsets that do not fit")
        spans = zip(offsets[:-1].tolist(), offsets[1:].tolist(), present.tolist(), strict=True)
        if (np.diff(offsets) < 0).any():
            raise ValueError("offsets that fall")
        return [raw[start:end].decode("utf-8") if there else None for start, end, there in spans]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise FileFormatError(f"{path}: text: expected UTF-8 with offsets, got {error}") from error
