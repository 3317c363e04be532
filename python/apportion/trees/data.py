"""Trees as they are kept: parents, numbers and texts, one row a node. NumPy and `errors` alone.

What a search stands at, what another project has written, and what lies in a file all
become `Trees`; pictures and files are made of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion.arrays import Array, floats, integers, to_numpy
from apportion.errors import DtypeError, InputError

if TYPE_CHECKING:
    from apportion.tree import Search

Texts = Mapping[tuple[int, int], str] | Callable[[int, int], str | None] | Sequence[str | None]

STRUCTURE = ("offsets", "parent", "depth", "first_child", "children")
"""Columns of `Search.nodes()` that say how nodes hang together, not what they are worth."""

UNVISITED = ("q", "value", "raw_value")
"""Columns that say nothing of a node without visits, and are NaN there."""


@dataclass(frozen=True, eq=False)
class Trees:
    """Any number of trees, tree after tree, parents before their children.

    Attributes:
        offsets: `(trees + 1,)` rows of tree `t` are `offsets[t]` to `offsets[t + 1]`.
        parent: `(nodes,)` each node's parent, counted from its tree's first row; -1 at
            the root, which is the first row.
        columns: further columns by name, `(nodes,)` integers, floats or booleans; NaN
            where a number is absent. `visits` and `value` are what pictures show.
        texts: `(nodes,)` what each node stands for, or `None`; of a root the question.
        names: a name a tree, or `None`.
        meta: anything of the whole that JSON can hold.
        timeline: budget over time: columns of equal length, `seconds` among them.

    Raises:
        InputError: lengths that differ; a tree without nodes; a parent that is no
            earlier node of its tree. Names the column and the index.
        DtypeError: a column that holds no numbers.
    """

    offsets: Array
    parent: Array
    columns: Mapping[str, Array] = field(default_factory=dict)
    texts: Sequence[str | None] | None = None
    names: Sequence[str] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    timeline: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the columns and makes them arrays."""
        object.__setattr__(self, "offsets", _offsets(self.offsets))
        object.__setattr__(self, "parent", _parents(self.parent, self.offsets))
        count = len(self.parent)
        columns = {name: _column(name, of, count) for name, of in self.columns.items()}
        object.__setattr__(self, "columns", columns)
        timeline = {name: floats(f"timeline.{name}", of) for name, of in self.timeline.items()}
        if len({of.shape for of in timeline.values()}) > 1 or (
            timeline and "seconds" not in timeline
        ):
            raise InputError("timeline: expected columns of equal length, seconds among them")
        for name, given, expected, of in (
            ("texts", self.texts, count, "nodes"),
            ("names", self.names, len(self), "trees"),
        ):
            if given is not None and len(given) != expected:
                message = f"{name}: got {len(given)}, expected {expected}, the number of {of}"
                raise InputError(message)

    def __len__(self) -> int:
        """Number of trees."""
        return len(self.offsets) - 1

    @property
    def num_nodes(self) -> int:
        """Number of nodes of all trees."""
        return len(self.parent)

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

    def select(self, trees: Sequence[int]) -> Trees:
        """Some of the trees, in the order given.

        Raises:
            InputError: a tree that is not there.
        """
        for index, tree in enumerate(trees):
            if not 0 <= tree < len(self):
                message = f"trees[{index}]: got {tree}, expected a number from 0 to {len(self) - 1}"
                raise InputError(message)
        spans = [(int(self.offsets[t]), int(self.offsets[t + 1])) for t in trees]
        rows = np.concatenate([np.arange(*span) for span in spans] or [np.zeros(0, np.int64)])
        return Trees(
            offsets=np.cumsum([0, *(end - start for start, end in spans)]),
            parent=self.parent[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
            texts=None if self.texts is None else [self.texts[row] for row in rows.tolist()],
            names=None if self.names is None else [self.names[t] for t in trees],
            meta=self.meta,
            timeline=self.timeline,
        )

    @classmethod
    def from_search(
        cls,
        search: Search,
        texts: Texts | None = None,
        names: Sequence[str] | None = None,
    ) -> Trees:
        """What a search stands at.

        Args:
            search: the search; nothing is taken from it.
            texts: what nodes stand for: a mapping from `(tree, node)`, a function of a
                tree and a node, or a sequence as long as the rows of `search.nodes()`.
            names: a name a tree.
        """
        nodes = search.nodes()
        numbers = {f.name: getattr(nodes, f.name) for f in fields(nodes)}
        unvisited = np.asarray(numbers["visits"]) == 0
        columns = {name: of for name, of in numbers.items() if name not in STRUCTURE}
        for name in UNVISITED:
            columns[name] = np.where(unvisited, np.nan, columns[name])
        return cls(
            offsets=nodes.offsets,
            parent=nodes.parent,
            columns=columns,
            texts=None if texts is None else _texts(texts, nodes.offsets),
            names=names,
            timeline=search.timeline,
        )

    def to_html(self, path: Any = None, *, title: str = "Trees", source: str | None = None) -> Any:
        """One HTML page that shows the trees; returned, or written to `path`.

        Every tree as a map in which width is visits and colour is value, and as a list
        that opens node by node, with texts, numbers and the budget over time. The page
        is self-contained and treats texts as a report does; see `write_report`.

        Args:
            path: a file, replaced in one step; without it the page is returned.
            title: heading of the page.
            source: where the trees came from, for example a file's name.

        Raises:
            InputError: no trees.
            OSError: the file cannot be written.
        """
        from apportion.trees.page import html

        return _given_or_written(html(self, title=title, source=source), path)

    def to_svg(self, path: Any = None, *, tree: int = 0, max_nodes: int = 400) -> Any:
        """A drawing of one tree: width of an edge is visits, colour is value.

        Of a larger tree the `max_nodes` most visited nodes are drawn, and the drawing
        says how many are not.

        Raises:
            InputError: a tree that is not there.
            OSError: the file cannot be written.
        """
        from apportion.trees.drawing import svg

        return _given_or_written(svg(self, tree, max_nodes), path)

    def to_dot(self, path: Any = None, *, tree: int = 0, max_nodes: int = 400) -> Any:
        """One tree in Graphviz's language, with the nodes that `to_svg` draws."""
        from apportion.trees.drawing import dot

        return _given_or_written(dot(self, tree, max_nodes), path)


def _given_or_written(text: str, path: Any) -> str | None:
    from apportion.report.page import replace_file

    if path is None:
        return text
    replace_file(path, text.encode("utf-8"))
    return None


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


def _column(name: str, values: Any, count: int) -> Array:
    array = to_numpy(name, values)
    if array.dtype.kind not in "biuf":
        raise DtypeError(f"{name}: got {array.dtype}, expected numbers or booleans")
    if array.shape != (count,):
        raise InputError(f"{name}: got shape {array.shape}, expected ({count},), one a node")
    return array


def _texts(texts: Texts, offsets: Array) -> Sequence[str | None]:
    if isinstance(texts, Sequence) and not isinstance(texts, str):
        return texts
    of: Callable[[int, int], str | None]
    if isinstance(texts, Mapping):
        found = texts

        def of(tree: int, node: int) -> str | None:
            return found.get((tree, node))

    elif callable(texts):
        of = texts
    else:
        got = type(texts).__name__
        raise DtypeError(f"texts: got {got}, expected a mapping, a function or a sequence")
    sizes = np.diff(offsets).tolist()
    return [of(tree, node) for tree, size in enumerate(sizes) for node in range(size)]
