"""Ends that are told as children, under rules that back values up in a way of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.search.data import KINDS
from oracles import rules as naive

ROLLOUT = KINDS.index("rollout")
FADE = {"groundedprm": 0.9, "rest_mcts": 0.5}
WEIGHT = {"groundedprm": 2**0.5, "rest_mcts": 0.7}


class Table:
    """Three children a node, of which one may be an end; all depends on the path alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def draw(self, path: naive.Path, what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, what, len(path), *path])

    def expand(self, path: naive.Path) -> list[tuple[float, bool]] | float:
        draw = self.draw(path, 0)
        if path and draw.uniform() < 0.2:
            return float(draw.uniform(-1, 1))  # an end that shows when it is evaluated
        end = int(draw.integers(0, 5))
        return [(float(draw.uniform(-1, 1)), i == end) for i in range(3)]

    def rollout(self, path: naive.Path) -> float:
        return float(self.draw(path, 1).uniform(-1, 1))


class Run:
    """A search of one tree with answers of a table, one request at a time."""

    def __init__(self, rule: str, table: Table, **options: Any) -> None:
        self.search = ap.Search(1, 10**4, rule=rule, num_simulations=60, **options)
        self.asked: list[naive.Path] = []
        self.followed: dict[naive.Path, int] = {}  # the child from which a rollout was asked
        self.ended: dict[naive.Path, int] = {}  # the one child that was told as an end
        self.paths: list[naive.Path] = [()]
        while leaves := self.search.select(1):
            self.answer(leaves, table)

    def answer(self, leaves: ap.Leaves, table: Table) -> None:
        path = self.paths[int(leaves.node[0])]
        self.asked.append(path)
        if leaves.kind[0] == ROLLOUT:
            self.followed[path[:-1]] = path[-1]
            return self.search.expand(leaves, values=[table.rollout(path)])
        found = table.expand(path)
        if isinstance(found, float):
            return self.search.expand(leaves, values=[found], terminal=[True])
        self.paths += [(*path, i) for i in range(len(found))]
        ends = [end for _, end in found]
        if any(ends):
            self.ended[path] = ends.index(True)
        values = [[value for value, _ in found]]
        self.search.expand(leaves, values=[0.0], child_values=values, child_terminal=[ends])

    def pick(self, path: naive.Path) -> int:
        """The child that was drawn: the end where no rollout was asked."""
        return self.followed.get(path, self.ended.get(path, -1))


@pytest.mark.parametrize("rule", FADE)
@pytest.mark.parametrize("seed", range(8))
def test_ends_among_children(rule: str, seed: int) -> None:
    table = Table(seed)
    run = Run(rule, table, seed=seed)
    pick = run.pick if rule == "groundedprm" else None
    walk = naive.Walk(rule, WEIGHT[rule], FADE[rule], table.expand, table.rollout, pick)
    simulations = 0
    while simulations < 60 and walk.simulate():
        simulations += 1
    nodes = run.search.nodes()
    assert run.search.simulations.tolist() == [simulations]
    assert nodes.visits.tolist() == [walk.visits[path] for path in run.paths]
    own = [walk.sums[path] / max(walk.visits[path], 1) for path in run.paths]
    seen = nodes.visits > 0
    np.testing.assert_allclose(nodes.q[seen], np.array(own)[seen], rtol=1e-12)
    told = [path for path in run.paths if walk.told[path][1]]
    assert told and not set(told) & set(run.asked), "nothing is asked of a child told as an end"


@pytest.mark.parametrize("rule", FADE)
def test_ends_are_visited_once(rule: str) -> None:
    search = ap.Search(1, 100, rule=rule, num_simulations=50)
    ends = {"child_values": [[1.0, 1.0, 1.0]], "child_terminal": [[True] * 3]}
    search.expand(search.select(1), values=[0.0], **ends)
    assert not search.select(1) and search.simulations.tolist() == [3]
    nodes, root = search.nodes(), 0.9 if rule == "groundedprm" else 1.0
    assert nodes.visits[0] == 3 and nodes.q[0] == pytest.approx(root)


@pytest.mark.parametrize("rule", FADE)
def test_nodes_without_further_children_stay_open(rule: str) -> None:
    """Widening that finds nothing new is no end of the node, nor a visit of it."""
    search = ap.Search(1, 1000, rule=rule, num_simulations=40, widening=(1.0, 0.5))
    grown = []

    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        if leaves.kind[0] == ROLLOUT:
            return {"values": [0.5]}
        node = int(leaves.node[0])
        first = node not in grown
        grown.append(node)
        return {"values": [0.5], "child_values": [[0.5] if first else []], "children": int(first)}

    search.run(evaluate, batch_size=1)
    assert search.simulations.tolist() == [40]
    assert len(grown) > len(set(grown)) > 5


def test_prorag_visits_an_end_again_without_a_question() -> None:
    search = ap.Search(1, 100, rule="prorag", num_simulations=50, gamma=0.5)
    ends = {"child_values": [[1.0, 1.0]], "child_terminal": [[True, True]]}
    search.expand(search.select(1), values=[0.0], **ends)
    assert not search.select(1) and search.requests.tolist() == [1]
    nodes = search.nodes()
    assert search.simulations.tolist() == [50] and nodes.visits.tolist() == [50, 25, 25]
    assert nodes.value.tolist() == [0.5, 1.0, 1.0]


def test_a_child_without_prior_that_was_given_up_proves_nothing() -> None:
    search = ap.Search(1, 9, solve=1.0, max_failures=1)
    search.expand(search.select(1), values=[0.0], priors=[[1.0, 0.0]])
    leaves = search.select(2, per_tree=2)
    search.fail(leaves[leaves.node == 2])
    search.expand(leaves[leaves.node == 1], values=[-1.0], terminal=[True])
    assert search.nodes().proven.tolist() == [False, True, False]
