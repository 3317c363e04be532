"""Trees from a search, and their pictures. Depends on `data`, `page` and `drawing`.

What a search stands at, what another project has written, and what lies in a file all
become `Trees`; pictures and files are made of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from apportion.arrays import Array
from apportion.errors import DtypeError
from apportion.report.page import replace_file
from apportion.search.data import Nodes, SearchRollouts
from apportion.trees.data import TreeColumns
from apportion.trees.drawing import dot, svg
from apportion.trees.page import html
from apportion.trees.ragged import Ragged, TreeRollouts

Texts = Mapping[tuple[int, int], str] | Callable[[int, int], str | None] | Sequence[str | None]

STRUCTURE = ("offsets", "parent", "depth", "first_child", "children")
"""Columns of `Search.nodes()` that say how nodes hang together, not what they are worth."""

UNVISITED = ("q", "value", "raw_value")
"""Columns that say nothing of a node without visits, and are NaN there."""


class Searched(Protocol):
    """What is asked of a search."""

    @property
    def timeline(self) -> dict[str, list[float]]:
        """Budget over time."""

    def nodes(self) -> Nodes:
        """Every node's statistics."""

    def tokens(self) -> tuple[Array, Array]:
        """Tokens of edges, and their offsets."""

    def log_probs(self) -> Array:
        """Log-probs of these tokens."""

    def child_scores(self) -> tuple[Array, Array]:
        """Scores told with each node, and their offsets."""

    def rollouts(self) -> SearchRollouts:
        """Every rollout."""


@dataclass(frozen=True, eq=False)
class Trees(TreeColumns):
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
        ragged: columns by name of which a row has any length: of a search the `tokens` of the
            edge into each node, their `log_probs`, and the `scores` told with it.
        rollouts: what was sampled from nodes, with rewards, tokens and log-probs, or `None`.

    Raises:
        InputError: lengths that differ; a tree without nodes; a parent that is no
            earlier node of its tree. Names the column and the index.
        DtypeError: a column that holds no numbers.
    """

    @classmethod
    def from_search(
        cls,
        search: Searched,
        texts: Texts | None = None,
        names: Sequence[str] | None = None,
    ) -> Trees:
        """What a search stands at, with tokens and rollouts if it was told any.

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
        flat, starts = search.tokens()
        edges = {
            "tokens": Ragged(flat, starts),
            "log_probs": Ragged(search.log_probs(), starts),
            "scores": Ragged(*search.child_scores()),
        }
        return cls(
            offsets=nodes.offsets,
            parent=nodes.parent,
            columns=columns,
            texts=None if texts is None else _texts(texts, nodes.offsets),
            names=names,
            timeline=search.timeline,
            ragged=_told(edges),
            rollouts=_rollouts(search.rollouts()),
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
        return _given_or_written(html(self, title=title, source=source), path)

    def to_svg(self, path: Any = None, *, tree: int = 0, max_nodes: int = 400) -> Any:
        """A drawing of one tree: width of an edge is visits, colour is value.

        Of a larger tree the `max_nodes` most visited nodes are drawn, and the drawing
        says how many are not.

        Raises:
            InputError: a tree that is not there.
            OSError: the file cannot be written.
        """
        return _given_or_written(svg(self, tree, max_nodes), path)

    def to_dot(self, path: Any = None, *, tree: int = 0, max_nodes: int = 400) -> Any:
        """One tree in Graphviz's language, with the nodes that `to_svg` draws."""
        return _given_or_written(dot(self, tree, max_nodes), path)


def _given_or_written(text: str, path: Any) -> str | None:
    if path is None:
        return text
    replace_file(path, text.encode("utf-8"))
    return None


def _rollouts(found: SearchRollouts) -> TreeRollouts | None:
    if not len(found.node):
        return None
    columns = {"reward": found.reward, "mark": found.mark}
    rows = {
        "tokens": Ragged(found.tokens, found.token_offsets),
        "log_probs": Ragged(found.log_probs, found.token_offsets),
    }
    return TreeRollouts(found.offsets, found.node, columns, _told(rows))


def _told(rows: dict[str, Ragged]) -> dict[str, Ragged]:
    """Those in which there is anything; NaN is a log-prob that was not told."""
    return {name: of for name, of in rows.items() if not np.isnan(of.flat).all()}


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
