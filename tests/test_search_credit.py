"""Credit from a search's trees: as the oracles say of the visited nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import apportion as ap
from oracles import trees as oracle


def searched(seed: int = 0, *, with_rewards: bool = False, **options: Any) -> ap.Search:
    rng = np.random.default_rng(seed)
    search = ap.Search(2, 400, num_simulations=25, seed=seed, **options)
    while leaves := search.select(16):
        n = len(leaves)
        search.expand(
            leaves,
            values=rng.random(n),
            priors=rng.dirichlet(np.ones(3), n),
            rewards=rng.random(n) if with_rewards else None,
            tokens=[[[7] * int(rng.integers(1, 4)) for _ in range(3)] for _ in range(n)],
        )
    return search


def visited(search: ap.Search) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Rows of visited nodes, their parents among them, and returns from the root by row."""
    nodes = search.nodes()
    starts = np.repeat(nodes.offsets[:-1], np.diff(nodes.offsets))
    rows = np.flatnonzero(nodes.visits > 0)
    number = {row: i for i, row in enumerate(rows)}
    above = [-1 if nodes.parent[r] < 0 else number[nodes.parent[r] + starts[r]] for r in rows]
    returns = []
    for i, row in enumerate(rows):
        path = [int(rows[j]) for j in oracle.path(above, i)]
        discounts = search.gamma ** np.arange(len(path))
        earned = sum(d * nodes.reward[r] for d, r in zip(discounts, path[1:], strict=False))
        returns.append(earned + discounts[-1] * nodes.raw_value[row])
    return rows, above, np.array(returns)


@pytest.mark.parametrize("gamma", [1.0, 0.9, -1.0])
@pytest.mark.parametrize("mode", ["leaf", "child", "max"])
def test_as_the_oracle_says(mode: str, gamma: float) -> None:
    search = searched(with_rewards=gamma != 1.0, gamma=gamma)
    rows, above, returns = visited(search)
    credit = search.credit("tree_ps_rag", value_mode=mode)
    want = np.zeros(len(search.nodes().visits))
    want[rows] = oracle.tree_ps_rag(above, list(returns), mode=mode)
    np.testing.assert_allclose(credit.values["advantages"][1], want, rtol=1e-9, atol=1e-12)
    values = credit.extras["node_values"][1]
    np.testing.assert_allclose(values[rows], oracle.values(above, list(returns), mode))
    assert np.isnan(np.delete(values, rows)).all()


def test_visits_are_what_was_backed_up() -> None:
    search = searched()
    nodes = search.nodes()
    credit = search.credit("spo", value_mode="visit", drop_zero=False)
    seen = nodes.visits > 0
    np.testing.assert_array_equal(credit.extras["node_values"][1][seen], nodes.value[seen])
    by_vine = search.credit("vineppo", value_mode="visit").advantages
    np.testing.assert_array_equal(credit.advantages, by_vine)


def test_tokens_are_those_of_the_search() -> None:
    search = searched()
    nodes, (flat, offsets) = search.nodes(), search.tokens()
    credit = search.credit("treerl", value_mode="leaf")
    assert len(credit.advantages) == len(flat)
    by_node = credit.values["advantages"][1]
    np.testing.assert_array_equal(credit.advantages, np.repeat(by_node, np.diff(offsets)))
    unseen = np.repeat(nodes.visits == 0, np.diff(offsets))
    assert unseen.any() and not credit.advantages[unseen].any()


def test_rollouts_are_leaves() -> None:
    search = ap.Search(1, 10, num_simulations=2, seed=0, rule="puct")
    leaves = search.select(1)
    search.expand(leaves, values=[0.5], children=[2], tokens=[[[1], [2, 3]]])
    while leaves := search.select(1):
        search.expand(leaves, values=[0.1], rollouts=[[1.0, 0.0]], rollout_tokens=[[[4], [5, 6]]])
    rollouts = search.rollouts()
    assert rollouts.reward.tolist() == [1.0, 0.0, 1.0, 0.0]
    credit = search.credit("spo", value_mode="leaf")
    assert credit.values["advantages"][1].tolist() == [0, 0, 0, 0.5, -0.5, 0.5, -0.5]
    tokens = credit.advantages.tolist()
    assert tokens == [0, 0, 0, 0.5, -0.5, -0.5, 0.5, -0.5, -0.5]


def test_what_reads_no_trees_is_refused() -> None:
    search = searched()
    with pytest.raises(ap.OptionError, match="'grpo', expected one of treerl"):
        search.credit("grpo", value_mode="leaf")
    with pytest.raises(ap.OptionError, match="'max', expected 'leaf'"):
        search.credit("treerl", value_mode="max")
    with pytest.raises(ap.OptionError, match="value_mode"):
        search.credit("spo", value_mode="median")
    with pytest.raises(ap.OptionError, match="unknown option"):
        search.credit("spo", value_mode="leaf", no_such=1)


def test_before_the_first_answer() -> None:
    credit = ap.Search(2, 10).credit("spo", value_mode="visit")
    assert credit.values["advantages"][1].tolist() == [0, 0]
