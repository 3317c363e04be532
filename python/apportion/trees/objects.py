"""Trees as JSON: one object, a list of trees in it. Depends on `about`, `ragged` and `trees`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from apportion.arrays import Array
from apportion.errors import FileFormatError
from apportion.trees.about import described, restored
from apportion.trees.ragged import Ragged, TreeRollouts
from apportion.trees.trees import Trees

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float32", "float64")  # fmt: skip

Json = Any


def as_json(trees: Trees) -> Json:
    """What is written."""
    rollouts = trees.rollouts
    said: dict[str, Json] = {
        **described(trees),
        "dtypes": {name: str(of.dtype) for name, of in trees.columns.items()},
        "ragged": {name: str(of.flat.dtype) for name, of in trees.ragged.items()},
    }
    if rollouts is not None:
        said["rollouts"] = {
            "dtypes": {name: str(of.dtype) for name, of in rollouts.columns.items()},
            "ragged": {name: str(of.flat.dtype) for name, of in rollouts.ragged.items()},
        }
    said["trees"] = []
    for t, (start, end) in enumerate(_spans(trees.offsets)):
        tree: dict[str, Json] = {
            "parent": trees.parent[start:end].tolist(),
            **{name: _plain(of[start:end]) for name, of in trees.columns.items()},
            **({} if trees.texts is None else {"text": list(trees.texts[start:end])}),
            **{name: _lists(of, start, end) for name, of in trees.ragged.items()},
        }
        if rollouts is not None:
            start, end = rollouts.offsets[t : t + 2].tolist()
            tree["rollouts"] = {
                "node": rollouts.node[start:end].tolist(),
                **{name: _plain(of[start:end]) for name, of in rollouts.columns.items()},
                **{name: _lists(of, start, end) for name, of in rollouts.ragged.items()},
            }
        said["trees"].append(tree)
    return said


def _spans(offsets: Array) -> list[tuple[int, int]]:
    return list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))


def _lists(rows: Ragged, start: int, end: int) -> list[Json]:
    """Rows `start` to `end`, a list each."""
    return [_plain(rows.row(i)) for i in range(start, end)]


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
    trees = value.get("trees")
    if not isinstance(trees, list) or not all(isinstance(tree, dict) for tree in trees):
        raise FileFormatError(f"{place}: trees: expected a list of objects")
    where = [f"{place}: trees[{index}]" for index in range(len(trees))]
    sizes = [len(_listed(at, tree, "parent")) for at, tree in zip(where, trees, strict=True)]
    texts = None
    if any("text" in tree for tree in trees):
        found = zip(where, trees, strict=True)
        texts = [text for at, tree in found for text in _listed(at, tree, "text")]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise FileFormatError(f"{place}: text: expected texts or nulls")
    return restored(
        place,
        value,
        offsets=np.cumsum([0, *sizes]),
        parent=_joined(where, trees, "parent", "int64", sizes),
        columns=_columns(place, value, where, trees, sizes),
        texts=texts,
        ragged=_ragged(place, value, where, trees, sizes),
        rollouts=_rollouts(place, value, where, trees),
    )


def _rollouts(
    place: str, said: Mapping[str, Json], where: list[str], trees: list[Mapping[str, Json]]
) -> TreeRollouts | None:
    about = said.get("rollouts")
    if about is None:
        return None
    found = [tree.get("rollouts") for tree in trees]
    if not isinstance(about, dict) or not all(isinstance(of, dict) for of in found):
        raise FileFormatError(f"{place}: rollouts: expected an object here and in every tree")
    place, where = f"{place}: rollouts", [f"{at}.rollouts" for at in where]
    of_trees: list[Mapping[str, Json]] = [of for of in found if isinstance(of, dict)]
    sizes = [len(_listed(at, of, "node")) for at, of in zip(where, of_trees, strict=True)]
    return TreeRollouts(
        np.cumsum([0, *sizes]),
        _joined(where, of_trees, "node", "int64", sizes),
        _columns(place, about, where, of_trees, sizes),
        _ragged(place, about, where, of_trees, sizes),
    )


def _dtypes(place: str, said: Mapping[str, Json], name: str) -> dict[str, str]:
    dtypes = said.get(name, {})
    if not isinstance(dtypes, dict) or not all(d in DTYPES for d in dtypes.values()):
        raise FileFormatError(f"{place}: {name}: expected an object of NumPy's types of numbers")
    return dtypes


def _columns(
    place: str,
    said: Mapping[str, Json],
    where: list[str],
    parts: list[Mapping[str, Json]],
    sizes: list[int],
) -> dict[str, Array]:
    dtypes = _dtypes(place, said, "dtypes")
    return {n: _joined(where, parts, n, dtype, sizes) for n, dtype in dtypes.items()}


def _ragged(
    place: str,
    said: Mapping[str, Json],
    where: list[str],
    parts: list[Mapping[str, Json]],
    sizes: list[int],
) -> dict[str, Ragged]:
    found = {}
    for name, dtype in _dtypes(place, said, "ragged").items():
        lengths, flat = [0], [np.zeros(0, dtype=dtype)]
        for at, part, size in zip(where, parts, sizes, strict=True):
            rows = _listed(at, part, name)
            if len(rows) != size or not all(isinstance(row, list) for row in rows):
                raise FileFormatError(f"{at}.{name}: expected {size} lists")
            lengths += [len(row) for row in rows]
            flat.append(_numbers(f"{at}.{name}", [v for row in rows for v in row], dtype))
        found[name] = Ragged(np.concatenate(flat), np.cumsum(lengths))
    return found


def _listed(where: str, part: Mapping[str, Json], name: str) -> list[Json]:
    values = part.get(name)
    if not isinstance(values, list):
        got = "nothing" if values is None else type(values).__name__
        raise FileFormatError(f"{where}.{name}: got {got}, expected a list")
    return values


def _joined(
    where: list[str], parts: list[Mapping[str, Json]], name: str, dtype: str, sizes: list[int]
) -> Array:
    found = [np.zeros(0, dtype=dtype)]
    for at, part, size in zip(where, parts, sizes, strict=True):
        values = _listed(at, part, name)
        if len(values) != size:
            raise FileFormatError(f"{at}.{name}: got {len(values)} values, expected {size}")
        found.append(_numbers(f"{at}.{name}", values, dtype))
    return np.concatenate(found)


def _numbers(where: str, values: list[Json], dtype: str) -> Array:
    floating = dtype.startswith("float")
    try:
        return np.array([np.nan if floating and v is None else v for v in values], dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise FileFormatError(f"{where}: expected {dtype}: {error}") from error
