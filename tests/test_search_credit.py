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


BEAMS = [name for name, card in ap.search_rules().items() if card.family == "beam"]


@pytest.mark.parametrize("mode", ["leaf", "child", "max", "own"])
@pytest.mark.parametrize("rule", BEAMS)
def test_rules_that_visit_nothing_have_credit_from_scores(rule: str, mode: str) -> None:
    rng = np.random.default_rng(3)
    search = ap.Search(2, 300, rule=rule, num_simulations=4, seed=1)
    while leaves := search.select(5, per_tree=1):
        counts = [int(want) or 3 for want in leaves.want]
        scores = [rng.random(count).tolist() for count in counts]
        priors = [rng.random(count) for count in counts]
        values = rng.random(len(leaves))
        search.expand(leaves, values=values, priors=priors, child_values=scores)
    nodes = search.nodes()
    assert not nodes.visits.any()
    starts = np.repeat(nodes.offsets[:-1], np.diff(nodes.offsets))
    rows = np.flatnonzero(nodes.valued | (nodes.children > 0))
    number = {row: i for i, row in enumerate(rows)}
    above = [-1 if nodes.parent[r] < 0 else number[nodes.parent[r] + starts[r]] for r in rows]
    scores = nodes.raw_value[rows]
    if mode == "own":  # of the roots, which were told nothing, their children's mean
        below = [[scores[i] for i, p in enumerate(above) if p == n] for n in range(len(rows))]
        told = nodes.valued[rows]
        values = [v if t else np.mean(b) for v, t, b in zip(scores, told, below, strict=True)]
    else:
        values = oracle.values(above, list(scores), mode)
    want = np.zeros(len(nodes.parent))
    want[rows] = [0 if p < 0 else values[i] - values[p] for i, p in enumerate(above)]
    credit = search.credit("vineppo", value_mode=mode)
    np.testing.assert_allclose(credit.values["advantages"][1], want, rtol=1e-9, atol=1e-12)
    assert np.count_nonzero(want) > 5
    with pytest.raises(ap.OptionError, match="got 'visit', expected another"):
        search.credit("vineppo", value_mode="visit")


def test_without_tokens_each_edge_is_one() -> None:
    def run(tokens: bool) -> ap.Search:
        rng = np.random.default_rng(5)
        search = ap.Search(2, 200, num_simulations=15, seed=0)
        while leaves := search.select(1):
            told = {"tokens": [[[1], [2], [3]]]} if tokens else {}
            search.expand(leaves, values=rng.random(1), children=3, **told)
        return search

    bare, told = run(False), run(True)
    roots = bare.nodes().parent < 0
    for method in ("treepo", "treerl", "tree_grpo"):
        got, want = (one.credit(method, value_mode="leaf") for one in (bare, told))
        assert len(got.advantages) == int((~roots).sum())
        np.testing.assert_array_equal(got.advantages, want.advantages)
        assert np.count_nonzero(got.advantages) > 10


@pytest.mark.parametrize(
    ("method", "without", "reading"),
    [
        ("treepo", {}, {"form": "segment"}),
        ("tree_grpo", {"mode": "tree"}, {"mode": "tree_diff"}),
        ("treerl", {}, None),
    ],
)
def test_a_value_mode_that_would_not_be_read_is_refused(
    method: str, without: dict[str, Any], reading: dict[str, Any] | None
) -> None:
    search = searched()
    for given in ({"value_mode": "max"}, {"value_mode": "leaf", "own_share": 0.5}):
        with pytest.raises(ap.OptionError, match=r"expected 'leaf'.* reads leaves alone"):
            search.credit(method, **given, **without)
    if reading is not None:
        found = [
            search.credit(method, value_mode=mode, **reading).values["advantages"][1]
            for mode in ("leaf", "child", "max", "visit", "own")
        ]
        for i, one in enumerate(found):
            assert all(not np.array_equal(one, other) for other in found[i + 1 :])


def test_values_of_its_own_and_of_its_rollouts() -> None:
    search = ap.Search(1, 10, num_simulations=3, seed=0, gamma=0.5)
    search.expand(search.select(1), values=[0.5], children=[2], rollouts=[[1.0, 0.0, 0.0, 0.0]])
    search.expand(search.select(1), values=[0.25], rollouts=[[1.0]])
    search.expand(search.select(1), values=[0.75], rewards=[2.0])

    def values(**how: Any) -> list[float]:
        return search.credit("spo", **how).extras["node_values"][1][:3].tolist()

    assert values(value_mode="own") == [0.5, 0.125, 2 + 0.375]
    assert values(value_mode="rollout") == [0.25, 0.5, 2 + 0.375]  # the last from its value
    below = values(value_mode="leaf")
    assert below == [(1 + 0.5 + 2.375) / 6, 0.5, 2.375]
    mixed = values(value_mode="leaf", own_share=0.25)
    np.testing.assert_allclose(mixed, np.array(below) * 0.75 + [0.125, 0.03125, 0.59375])
    assert values(value_mode="leaf", own_share=1) == values(value_mode="own")
    for bad in (-0.1, 1.5, float("nan"), True, "half"):
        with pytest.raises(ap.OptionError, match="own_share: got"):
            search.credit("spo", value_mode="leaf", own_share=bad)
    with pytest.raises(ap.OptionError, match="value_mode: got 'median', expected one of leaf"):
        search.credit("spo", value_mode="median")


def test_the_interval_of_an_edge() -> None:
    search = searched(variance=True)
    nodes = search.nodes()
    twice = nodes.visits > 1
    assert twice.any() and np.isinf(nodes.half_width()[~twice]).all()
    want = 2 * np.sqrt(nodes.variance[twice] / nodes.visits[twice])
    np.testing.assert_allclose(nodes.half_width(2.0)[twice], want, rtol=1e-12)
    assert np.isinf(searched().nodes().half_width()).all()


def test_a_pools_searched_rollouts_count_once() -> None:
    search = ap.Search(2, 600, rule="omegaprm", num_simulations=4, min_span=0)
    rng = np.random.default_rng(1)
    while leaves := search.select(2):
        search.expand(
            leaves,
            rollouts=(rng.random((len(leaves), 8)) < 0.4).astype(float),
            rollout_tokens=rng.integers(0, 9, (len(leaves), 8, 6)).tolist(),
        )
    nodes, found = search.nodes(), search.rollouts()
    assert nodes.terminal.any(), "a rollout was wrong at its very end"
    for mode in ("leaf", "visit"):
        credit = search.credit("spo", value_mode=mode)
        values = credit.extras["node_values"][1]
        for tree, root in enumerate(nodes.offsets[:-1]):
            own = slice(*found.offsets[tree : tree + 2])
            mean = found.reward[own].mean() if mode == "leaf" else nodes.q[root]
            np.testing.assert_allclose(values[root], mean)
        rows = credit.values["advantages"][1][: len(nodes.visits)]
        assert not rows[nodes.terminal].any()
