"""Answers that hang on the leaf alone, and what holds of every search that is given them."""

from __future__ import annotations

from typing import Any

import numpy as np

import apportion as ap
from apportion.search.data import KINDS

WIDTH = 3
EXPAND = KINDS.index("expand")


def noise(*keys: Any) -> np.random.Generator:
    return np.random.default_rng([int(k) for k in keys])


def answer(leaves: ap.Leaves) -> dict[str, Any]:
    """Answers that hang on the leaf alone."""
    draws = [noise(t, n) for t, n in zip(leaves.tree, leaves.node, strict=True)]
    return {
        "values": [rng.random() for rng in draws],
        "priors": [rng.dirichlet(np.ones(WIDTH)) for rng in draws],
        "tokens": [[[int(n), i] for i in range(WIDTH)] for n in leaves.node],
    }


def conserved(search: ap.Search) -> None:
    nodes = search.nodes()
    assert search.in_flight == 0
    for start, end in zip(nodes.offsets[:-1], nodes.offsets[1:], strict=True):
        visits, parent = nodes.visits[start:end], nodes.parent[start:end]
        below = np.bincount(parent[1:], weights=visits[1:], minlength=end - start)
        inner = nodes.children[start:end] > 0
        np.testing.assert_array_equal(visits[inner], below[inner] + 1)


def same(one: ap.Search, other: ap.Search) -> None:
    a, b = one.nodes(), other.nodes()
    for name in ("offsets", "parent", "visits", "q", "value", "prior"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for x, y in zip(one.tokens(), other.tokens(), strict=True):
        np.testing.assert_array_equal(x, y)
