"""What trees have besides one number a node: tokens, and rollouts with theirs.

Depends on `arrays` and `errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apportion.arrays import Array, integers, to_numpy
from apportion.errors import DtypeError, InputError


@dataclass(frozen=True, eq=False)
class Ragged:
    """A column of rows of any length: row `i` is `flat[offsets[i]:offsets[i + 1]]`.

    Attributes:
        flat: all rows, one after the other, integers or floats.
        offsets: `(rows + 1,)`.
    """

    flat: Array
    offsets: Array

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def row(self, index: int) -> Array:
        """One row."""
        row: Array = self.flat[self.offsets[index] : self.offsets[index + 1]]
        return row

    def take(self, rows: Array) -> Ragged:
        """Some of the rows."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.flat[places + np.repeat(self.offsets[:-1][rows], lengths)], offsets)


@dataclass(frozen=True, eq=False)
class TreeRollouts:
    """Rollouts of any number of trees, tree after tree, one row each.

    Attributes:
        offsets: `(trees + 1,)` rows of tree `t` are `offsets[t]` to `offsets[t + 1]`.
        node: `(rollouts,)` where each began, counted from its tree's first row.
        columns: further columns by name, `(rollouts,)` numbers or booleans, such as `reward`.
        ragged: columns by name of which a row is a rollout, such as `tokens`.
    """

    offsets: Array
    node: Array
    columns: Mapping[str, Array] = field(default_factory=dict)
    ragged: Mapping[str, Ragged] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rollouts."""
        return len(self.node)

    def checked(self, nodes: Array) -> TreeRollouts:
        """The same as arrays that fit trees with these offsets of nodes.

        Raises:
            InputError: names the column and the index that do not fit.
        """
        offsets, node = integers("rollouts.offsets", self.offsets), integers("node", self.node)
        if offsets.shape != nodes.shape or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise InputError(f"rollouts.offsets: expected {len(nodes)} that ascend from 0")
        count = int(offsets[-1])
        if node.shape != (count,):
            raise InputError(f"rollouts.node: got shape {node.shape}, expected ({count},)")
        sizes = np.repeat(np.diff(nodes), np.diff(offsets))
        wrong = np.flatnonzero((node < 0) | (node >= sizes))
        if len(wrong):
            at = int(wrong[0])
            raise InputError(
                f"rollouts.node[{at}]: got {node[at]}, expected 0 to {sizes[at] - 1}, "
                "a node of its tree"
            )
        return TreeRollouts(
            offsets,
            node,
            {n: column(f"rollouts.{n}", of, count) for n, of in self.columns.items()},
            {n: ragged(f"rollouts.{n}", of, count) for n, of in self.ragged.items()},
        )

    def select(self, trees: Sequence[int]) -> TreeRollouts:
        """Those of some of the trees, in the order given."""
        rows, offsets = spans(self.offsets, trees)
        return TreeRollouts(
            offsets,
            self.node[rows],
            {name: of[rows] for name, of in self.columns.items()},
            {name: of.take(rows) for name, of in self.ragged.items()},
        )


def spans(offsets: Array, trees: Sequence[int]) -> tuple[Array, Array]:
    """Rows of some trees, one after the other, and the offsets that they have there."""
    ends = [(int(offsets[t]), int(offsets[t + 1])) for t in trees]
    rows = np.concatenate([np.arange(*span) for span in ends] or [np.zeros(0, np.int64)])
    return rows, np.cumsum([0, *(end - start for start, end in ends)])


def column(name: str, values: Any, count: int) -> Array:
    """A column of numbers, one a row."""
    array = to_numpy(name, values)
    if array.dtype.kind not in "biuf":
        raise DtypeError(f"{name}: got {array.dtype}, expected numbers or booleans")
    if array.shape != (count,):
        raise InputError(f"{name}: got shape {array.shape}, expected ({count},)")
    return array


def ragged(name: str, values: Any, count: int) -> Ragged:
    """A column of rows of numbers."""
    if not isinstance(values, Ragged):
        raise DtypeError(f"{name}: got {type(values).__name__}, expected Ragged")
    offsets = integers(f"{name}.offsets", values.offsets)
    flat = to_numpy(f"{name}.flat", values.flat)
    if flat.dtype.kind not in "biuf" or flat.ndim != 1:
        got = f"{flat.dtype} of shape {flat.shape}"
        raise DtypeError(f"{name}.flat: got {got}, expected numbers in one dimension")
    if offsets.shape != (count + 1,) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise InputError(f"{name}.offsets: expected {count + 1} that ascend from 0")
    if offsets[-1] != len(flat):
        raise InputError(f"{name}.offsets: got {offsets[-1]} at the end, expected {len(flat)}")
    return Ragged(flat, offsets)
