"""Trees as JSON: one object, a list of trees in it. Depends on `about`, `ragged` and `trees`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    nodes = Table(place, value, where, trees, sizes)
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
        parent=nodes.column("parent", "int64"),
        columns=nodes.columns(),
        texts=texts,
        ragged=nodes.ragged(),
        rollouts=_rollouts(nodes),
    )


def _rollouts(nodes: Table) -> TreeRollouts | None:
    about = nodes.about.get("rollouts")
    if about is None:
        return None
    found = [tree.get("rollouts") for tree in nodes.parts]
    if not isinstance(about, dict) or not all(isinstance(of, dict) for of in found):
        raise FileFormatError(f"{nodes.place}: rollouts: expected an object here and in every tree")
    where = [f"{at}.rollouts" for at in nodes.where]
    parts: list[Mapping[str, Json]] = [of for of in found if isinstance(of, dict)]
    sizes = [len(_listed(at, of, "node")) for at, of in zip(where, parts, strict=True)]
    table = Table(f"{nodes.place}: rollouts", about, where, parts, sizes)
    return TreeRollouts(
        np.cumsum([0, *sizes]), table.column("node", "int64"), table.columns(), table.ragged()
    )


@dataclass(frozen=True)
class Table:
    """Nodes or rollouts of all trees as they stand in a file, in parts of a tree each."""

    place: str  # of what says which columns there are, for messages
    about: Mapping[str, Json]
    where: Sequence[str]  # each part is
    parts: Sequence[Mapping[str, Json]]
    sizes: Sequence[int]

    def columns(self) -> dict[str, Array]:
        """One number a row."""
        return {name: self.column(name, dtype) for name, dtype in self._dtypes("dtypes").items()}

    def ragged(self) -> dict[str, Ragged]:
        """A list of numbers a row."""
        return {name: self._rows(name, dtype) for name, dtype in self._dtypes("ragged").items()}

    def column(self, name: str, dtype: str) -> Array:
        """One of the columns of numbers."""
        found = [np.zeros(0, dtype=dtype)]
        for at, part, size in zip(self.where, self.parts, self.sizes, strict=True):
            values = _listed(at, part, name)
            if len(values) != size:
                raise FileFormatError(f"{at}.{name}: got {len(values)} values, expected {size}")
            found.append(_numbers(f"{at}.{name}", values, dtype))
        return np.concatenate(found)

    def _rows(self, name: str, dtype: str) -> Ragged:
        lengths, flat = [0], [np.zeros(0, dtype=dtype)]
        for at, part, size in zip(self.where, self.parts, self.sizes, strict=True):
            rows = _listed(at, part, name)
            if len(rows) != size or not all(isinstance(row, list) for row in rows):
                raise FileFormatError(f"{at}.{name}: expected {size} lists")
            lengths += [len(row) for row in rows]
            flat.append(_numbers(f"{at}.{name}", [v for row in rows for v in row], dtype))
        return Ragged(np.concatenate(flat), np.cumsum(lengths))

    def _dtypes(self, name: str) -> dict[str, str]:
        dtypes = self.about.get(name, {})
        if not isinstance(dtypes, dict) or not all(d in DTYPES for d in dtypes.values()):
            raise FileFormatError(
                f"{self.place}: {name}: expected an object of NumPy's types of numbers"
            )
        return dtypes


def _listed(where: str, part: Mapping[str, Json], name: str) -> list[Json]:
    values = part.get(name)
    if not isinstance(values, list):
        got = "nothing" if values is None else type(values).__name__
        raise FileFormatError(f"{where}.{name}: got {got}, expected a list")
    return values


def _numbers(where: str, values: list[Json], dtype: str) -> Array:
    floating = dtype.startswith("float")
    try:
        return np.array([np.nan if floating and v is None else v for v in values], dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise FileFormatError(f"{where}: expected {dtype}: {error}") from error
