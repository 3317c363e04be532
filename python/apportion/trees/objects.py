"""Trees as JSON: one object, a list of trees in it. Depends on `about` and `trees`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from apportion.arrays import Array
from apportion.errors import FileFormatError
from apportion.trees.about import described, restored
from apportion.trees.trees import Trees

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float32", "float64")  # fmt: skip

Json = Any


def as_json(trees: Trees) -> Json:
    """What is written."""
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


def of_json(place: str, value: Json) -> Trees:
    """Trees of what was read; `place` is for messages."""
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
