"""Trees as they are kept: parents, numbers, tokens and texts, one row a node.

Pictures are made of these; `Trees`, which can also show itself, is in `trees`. Depends on
`ragged` and `errors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from apportion.arrays import Array, floats, index, integers
from apportion.errors import InputError
from apportion.trees.ragged import Ragged, TreeRollouts, column, ragged, spans

Self = TypeVar("Self", bound="TreeColumns")


@dataclass(frozen=True, eq=False)
class TreeColumns:
    """Columns of any number of trees; see `Trees`, which has pictures too."""

    offsets: Array
    parent: Array
    columns: Mapping[str, Array] = field(default_factory=dict)
    texts: Sequence[str | None] | None = None
    names: Sequence[str] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    timeline: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ragged: Mapping[str, Ragged] = field(default_factory=dict)
    rollouts: TreeRollouts | None = None

    def __post_init__(self) -> None:
        """Checks the columns and makes them arrays."""
        object.__setattr__(self, "offsets", _offsets(self.offsets))
        object.__setattr__(self, "parent", _parents(self.parent, self.offsets))
        count = len(self.parent)
        columns = {name: column(name, of, count) for name, of in self.columns.items()}
        object.__setattr__(self, "columns", columns)
        rows = {name: ragged(name, of, count) for name, of in self.ragged.items()}
        object.__setattr__(self, "ragged", rows)
        if self.rollouts is not None:
            object.__setattr__(self, "rollouts", self.rollouts.checked(self.offsets))
        for name in {*columns} & {*rows, *([] if self.rollouts is None else ["rollouts"])}:
            raise InputError(f"{name}: is there twice, as a column and as rows")
        timeline = {name: floats(f"timeline.{name}", of) for name, of in self.timeline.items()}
        if len({of.shape for of in timeline.values()}) > 1 or (
            timeline and "seconds" not in timeline
        ):
            raise InputError("timeline: expected columns of equal length, seconds among them")
        for name, given, expected, of in (
            ("texts", self.texts, count, "nodes"),
            ("names", self.names, len(self), "trees"),
        ):
            if given is None:
                continue
            got = len(given) if hasattr(given, "__len__") else type(given).__name__
            if got != expected:
                raise InputError(f"{name}: got {got}, expected {expected}, the number of {of}")

    def __len__(self) -> int:
        """Number of trees."""
        return len(self.offsets) - 1

    @property
    def num_nodes(self) -> int:
        """Number of nodes of all trees."""
        return len(self.parent)

    @property
    def parents(self) -> Array:
        """`(nodes,)` each node's parent as a row of all trees, -1 at roots.

        What `Rollouts.from_tree` and `tree_credit` take.
        """
        starts = np.repeat(self.offsets[:-1], np.diff(self.offsets))
        return np.where(self.parent < 0, -1, self.parent + starts)

    @property
    def depth(self) -> Array:
        """`(nodes,)` edges between each node and its root."""
        depths: list[int] = []
        start = 0
        for end in self.offsets[1:].tolist():
            for parent in self.parent[start:end].tolist():
                depths.append(0 if parent < 0 else depths[start + parent] + 1)
            start = end
        return np.array(depths, dtype=np.int64)

    @property
    def num_leaves(self) -> Array:
        """`(nodes,)` nodes without children below each node; 1 for such a node itself."""
        up = (self.parent + np.repeat(self.offsets[:-1], np.diff(self.offsets))).tolist()
        counts = [0] * self.num_nodes
        roots = set(self.offsets[:-1].tolist())
        for row in range(self.num_nodes - 1, -1, -1):
            counts[row] = counts[row] or 1
            if row not in roots:
                counts[up[row]] += counts[row]
        return np.array(counts, dtype=np.int64)

    def select(self: Self, trees: Sequence[int]) -> Self:
        """Some of the trees, in the order given.

        Raises:
            InputError: a tree that is not there.
        """
        if not isinstance(trees, Iterable):
            raise InputError(f"trees: got {trees!r}, expected the numbers of some trees")
        trees = [index(f"trees[{i}]", tree, len(self)) for i, tree in enumerate(trees)]
        rows, offsets = spans(self.offsets, trees)
        return replace(
            self,
            offsets=offsets,
            parent=self.parent[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
            texts=None if self.texts is None else [self.texts[row] for row in rows.tolist()],
            names=None if self.names is None else [self.names[t] for t in trees],
            ragged={name: of.take(rows) for name, of in self.ragged.items()},
            rollouts=None if self.rollouts is None else self.rollouts.select(trees),
        )


def _offsets(values: Any) -> Array:
    offsets = integers("offsets", values)
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0:
        raise InputError("offsets: expected one dimension that begins with 0")
    empty = np.flatnonzero(np.diff(offsets) < 1)
    if len(empty):
        index = int(empty[0])
        sizes = f"{offsets[index]} to {offsets[index + 1]}"
        raise InputError(f"offsets[{index + 1}]: got rows {sizes}, expected at least one a tree")
    return offsets


def _parents(values: Any, offsets: Array) -> Array:
    parent = integers("parent", values)
    count = int(offsets[-1])
    if parent.shape != (count,):
        raise InputError(f"parent: got shape {parent.shape}, expected ({count},) as offsets say")
    local = np.arange(count) - np.repeat(offsets[:-1], np.diff(offsets))
    wrong = np.flatnonzero(np.where(local == 0, parent != -1, (parent < 0) | (parent >= local)))
    if len(wrong):
        row = int(wrong[0])
        expected = "-1 at a root" if local[row] == 0 else f"an earlier node, 0 to {local[row] - 1}"
        raise InputError(f"parent[{row}]: got {parent[row]}, expected {expected}")
    return parent
