"""What a search hands out: requests, nodes and rollouts, as arrays.

Depends on `arrays` and `errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from apportion.arrays import Array
from apportion.errors import InputError

KINDS = ("expand", "value", "rollout", "verify", "probe", "partial")
"""What a request asks for, by its number in `Leaves.kind`."""

Z95 = 1.959963984540054
"""Quantile of the normal distribution whose interval has a probability of 0.95."""


@dataclass(frozen=True, eq=False)
class Leaves:
    """Requests, one row each: nodes and what is to be found out about them.

    `ticket` is what the answer is given under; `tree` and `node` say where the leaf is,
    `parent` and `action` (which child of its parent; both -1 at a root) how it is
    reached, `depth` its distance from the root. `kind` is the number in `KINDS` of what
    is asked, `want` how many children or rollouts (0: as many as the evaluator likes),
    `length` the most tokens of each (0: no limit).
    """

    ticket: Array
    tree: Array
    node: Array
    parent: Array
    action: Array
    depth: Array
    kind: Array
    want: Array
    length: Array
    _forest: Any

    @classmethod
    def _of(cls, columns: dict[str, Array], forest: Any) -> Leaves:
        """All fields at once: setting a frozen class's one by one takes as long as dozens of
        leaves."""
        leaves = object.__new__(cls)
        leaves.__dict__.update(columns, _forest=forest)
        return leaves

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.ticket)

    def __getitem__(self, rows: Any) -> Leaves:
        """Some of the requests: a slice, a mask or indices."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self)[:-1]}
        return Leaves(**columns, _forest=self._forest)

    def of(self, kind: str) -> Leaves:
        """The requests of one kind."""
        if kind not in KINDS:
            raise InputError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
        return self[self.kind == KINDS.index(kind)]

    @property
    def judged(self) -> bool:
        """Whether the search's rule compares children by the `child_values` told with them."""
        return self._forest.judges_children()  # type: ignore[no-any-return]

    def paths(self) -> Iterator[tuple[int, Array]]:
        """For each request its tree and the nodes from the root to it."""
        flat, offsets = self._forest.paths(self.tree, self.node)
        for tree, start, end in zip(self.tree, offsets[:-1], offsets[1:], strict=True):
            yield int(tree), flat[start:end]

    def tokens(self) -> tuple[Array, Array]:
        """Tokens from the root to each node, one after the other, and `(n + 1,)` offsets."""
        flat, offsets = self._forest.path_tokens(self.tree, self.node)
        return flat, offsets

    def edge_lengths(self) -> Array:
        """`(n,)` how many of each node's tokens are those of the edge into it, the last ones."""
        _, above = self._forest.path_tokens(self.tree, np.maximum(self.parent, 0))
        lengths: Array = np.diff(self.tokens()[1]) - np.diff(above)
        return lengths


@dataclass(frozen=True, eq=False)
class Nodes:
    """All nodes of a search, tree after tree, one row each.

    Tree `t` has rows `offsets[t]` to `offsets[t + 1]`; `parent` and `first_child` count
    from the tree's first row and are -1 where there is none. `q` is the mean return of
    the edge into a node as its parent compares it, `value` the node's own mean.
    `raw_value` is what the node was told to be worth, 0 where it was not (`valued`).
    `variance` is the unbiased one of the edge's returns: infinite with fewer than two
    visits, or where the search does not keep it. `state` is the node itself, or the equal
    one that it was merged into.
    """

    offsets: Array
    parent: Array
    depth: Array
    first_child: Array
    children: Array
    visits: Array
    value_sum: Array
    q: Array
    value: Array
    raw_value: Array
    valued: Array
    reward: Array
    prior: Array
    variance: Array
    terminal: Array
    closed: Array
    proven: Array
    failures: Array
    state: Array

    def half_width(self, z: float = Z95) -> Array:
        """`(nodes,)` half the width of each edge's interval `q +- z * sqrt(variance / visits)`.

        Infinite with fewer than two visits, or in a search made without `variance=True`.
        """
        return z * np.sqrt(self.variance / np.maximum(self.visits, 1))


@dataclass(frozen=True, eq=False)
class SearchRollouts:
    """All rollouts of a search, tree after tree, one row each.

    Tree `t` has rows `offsets[t]` to `offsets[t + 1]`. `node` is where a rollout began,
    `reward` what it earned, `mark` a rule's own number (how often a pool searched it;
    2**32 - 1 where a branching rule cut it in two). Its tokens are
    `tokens[token_offsets[i]:token_offsets[i + 1]]`, with a float32 log-prob each in
    `log_probs`, NaN where none was told.
    """

    offsets: Array
    node: Array
    reward: Array
    mark: Array
    tokens: Array
    token_offsets: Array
    log_probs: Array
