"""Searches and trees for tests of files and pictures, and how trees are compared."""

from __future__ import annotations

from typing import Any

import numpy as np

import apportion as ap
from apportion.trees import Ragged, TreeRollouts


def searched(roots: int = 2, simulations: int = 12, children: int = 3, seed: int = 0) -> ap.Search:
    rng = np.random.default_rng(seed)
    search = ap.Search(roots, 20_000, num_simulations=simulations, seed=seed)
    while leaves := search.select(16):
        count = len(leaves)
        priors = rng.dirichlet(np.ones(children), count)
        search.expand(leaves, values=rng.normal(size=count), priors=priors)
    return search


def with_tokens() -> ap.Search:
    rng = np.random.default_rng(1)

    def rows(count: int) -> list[list[int]]:
        return [rng.integers(9, size=rng.integers(4)).tolist() for _ in range(count)]

    search = ap.Search(3, 20_000, num_simulations=10)
    while leaves := search.select(4):
        count = len(leaves)
        search.expand(
            leaves,
            children=2,
            tokens=[rows(2) for _ in range(count)],
            rollouts=rng.random((count, 2)),
            rollout_tokens=[rows(2) for _ in range(count)],
        )
    return search


def with_log_probs() -> ap.Search:
    search = ap.Search(1, 50, num_simulations=3)
    while leaves := search.select(1):
        search.expand(
            leaves,
            tokens=[[[1, 2], [3]]],
            token_log_probs=[[[-0.5, -0.25], []]],
            child_values=[[0.5, 1.0]],
            child_scores=[[[0.0, 1.0], [1.0]]],
            rollouts=[[1.0]],
            rollout_tokens=[[[4, 5]]],
            rollout_log_probs=[[[-1.0, -2.0]]],
        )
    return search


def some_trees(**changes: Any) -> ap.Trees:
    given: dict[str, Any] = {
        "offsets": np.array([0, 3, 4]),
        "parent": np.array([-1, 0, 0, -1]),
        "columns": {
            "visits": np.array([3, 2, 0, 1]),
            "value": np.array([0.5, 1 / 3, np.nan, np.inf]),
            "half": np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32),
            "terminal": np.array([False, True, False, False]),
        },
        "texts": ["Q?", "step \u2713\n", None, ""],
        "names": ["a", "b"],
        "meta": {"model": "m", "list": [1, None]},
        "timeline": {"seconds": [0.0, 1.5], "answered": [0, 3]},
        "ragged": {
            "tokens": Ragged(np.array([7, 2**32 - 1, 0]), np.array([0, 0, 2, 2, 3])),
            "log_probs": Ragged(
                np.array([-0.1, np.nan, 0], dtype=np.float32), np.array([0, 0, 2, 2, 3])
            ),
        },
        "rollouts": TreeRollouts(
            np.array([0, 3, 3]),
            np.array([2, 0, 2]),
            {"reward": np.array([1.0, 1 / 3, np.nan]), "cut": np.array([True, False, False])},
            {"tokens": Ragged(np.array([5, 6, 7]), np.array([0, 2, 2, 3]))},
        ),
    }
    return ap.Trees(**(given | changes))


def assert_equal(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def assert_same_columns(a: ap.Trees | TreeRollouts, b: ap.Trees | TreeRollouts) -> None:
    assert_equal(a.offsets, b.offsets)
    assert set(a.columns) == set(b.columns) and set(a.ragged) == set(b.ragged)
    for name, column in a.columns.items():
        assert_equal(column, b.columns[name])
    for name, rows in a.ragged.items():
        assert_equal(rows.flat, b.ragged[name].flat)
        assert_equal(rows.offsets, b.ragged[name].offsets)


def assert_same(a: ap.Trees, b: ap.Trees) -> None:
    assert_same_columns(a, b)
    np.testing.assert_array_equal(a.parent, b.parent)
    assert (a.rollouts is None) == (b.rollouts is None)
    if a.rollouts is not None and b.rollouts is not None:
        assert_same_columns(a.rollouts, b.rollouts)
        assert_equal(a.rollouts.node, b.rollouts.node)
    assert (a.texts is None) == (b.texts is None) and list(a.texts or []) == list(b.texts or [])
    assert a.names == b.names and a.meta == b.meta
    assert {n: list(v) for n, v in a.timeline.items()} == {
        n: list(v) for n, v in b.timeline.items()
    }
