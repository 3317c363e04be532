"""Credit read from a forest of 10^7 nodes, against NumPy level by level and the limit of 0.2 s.

Trees of 1,000 nodes with up to four children each, breadth first; a tenth of them if quick.
What is timed is `apportion.credit` on rollouts that are there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion import tree_credit

TREE = 1_000
CHILDREN = 4
LIMIT = 0.2  # seconds at 10^7 nodes


def forest(trees: int) -> tuple[np.ndarray, np.ndarray]:
    """Parents and outcomes; those of inner nodes are not read."""
    own = np.arange(TREE)
    parents = np.where(own == 0, -1, (own - 1) // CHILDREN)
    starts = np.arange(trees)[:, None] * TREE
    all_parents = np.where(parents < 0, -1, parents + starts).reshape(-1)
    scores = np.random.default_rng(0).integers(0, 2, trees * TREE).astype(np.float32)
    return all_parents, scores


def rollouts_of(parents: np.ndarray, scores: np.ndarray) -> ap.Rollouts:
    return ap.Rollouts.from_tree(parents, outcome_rewards=scores)


def by_level(parents: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """`V(n) - V(p)`, `V` the mean over children, in NumPy: one pass a level, deepest first."""
    count = len(parents)
    depth = np.zeros(count, dtype=np.int64)
    shape = parents[:TREE]
    for node in range(1, TREE):
        depth[node] = depth[shape[node]] + 1
    depth = np.tile(depth[:TREE], count // TREE)
    children = np.bincount(parents[parents >= 0], minlength=count)
    values = np.where(children == 0, scores, 0.0).astype(np.float64)
    for level in range(int(depth.max()), 0, -1):
        at = np.flatnonzero(depth == level)
        sums = np.bincount(parents[at], weights=values[at], minlength=count)
        above = sums.nonzero()[0]
        values[above] = sums[above] / children[above]
    return np.where(parents < 0, 0.0, values - values[np.maximum(parents, 0)])


@pytest.fixture(scope="module")
def large(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    return forest(1_000 if quick else 10_000)


def bench_against_numpy(compare: Callable[..., None], large: tuple[np.ndarray, np.ndarray]) -> None:
    small = forest(3)
    got = ap.credit("spo", rollouts_of(*small), drop_zero=False).values["advantages"][1]
    np.testing.assert_allclose(got, by_level(*small), atol=1e-12)
    rollouts = rollouts_of(*large)
    compare(
        f"spo, {len(large[0]):,} nodes",
        "NumPy, level by level",
        lambda: ap.credit("spo", rollouts, drop_zero=False),
        lambda: by_level(*large),
        moved=large[0].nbytes + large[1].nbytes + 8 * len(large[0]),
    )


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "spo": ("spo", {"drop_zero": False}),
    "tree_ps_rag": ("tree_ps_rag", {}),
    "treerl": ("treerl", {}),
    "tree_grpo": ("tree_grpo", {"mode": "tree_diff"}),
    "tree_grpo, between and within trees": ("tree_grpo", {}),
    "treepo": ("treepo", {"form": "segment", "whiten": False}),
    "treepo, whole answers": ("treepo", {}),
    "vineppo": ("vineppo", {}),
}


@pytest.mark.parametrize("case", METHODS)
def bench_readout(
    compare: Callable[..., None], large: tuple[np.ndarray, np.ndarray], case: str
) -> None:
    method, options = METHODS[case]
    rollouts = rollouts_of(*large)
    if method == "vineppo":  # with values of states, a tenth of which were estimated
        known = np.random.default_rng(1).random(len(large[0])).astype(np.float32)
        rollouts = rollouts.with_columns(node_values=np.where(known < 0.1, known, np.nan))
    compare(
        f"{case}, {len(large[0]):,} nodes, limit",
        "0.2 s at 10^7 nodes",
        lambda: ap.credit(method, rollouts, **options),
        None,
        limit=LIMIT * len(large[0]) / 1e7,
    )


@pytest.mark.parametrize("mode", ["leaf", "child", "max"])
def bench_node_values(
    compare: Callable[..., None], large: tuple[np.ndarray, np.ndarray], mode: str
) -> None:
    parents, scores = large[0], large[1].astype(np.float64)
    compare(
        f"node values, {mode}, {len(parents):,} nodes",
        "0.2 s at 10^7 nodes",
        lambda: tree_credit.node_values(parents, scores, value_mode=mode),
        None,
        limit=LIMIT * len(parents) / 1e7,
    )
