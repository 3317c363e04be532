"""Rules that grow trees against naive replays: what is asked in turn, visits and values."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.search.data import KINDS
from oracles import growth
from oracles.rules import Path

seeds = pytest.mark.parametrize("seed", range(4))
STEP_END = 3


def draw(*key: int) -> np.random.Generator:
    return np.random.default_rng([len(key), *key])


def sampler(seed: int, shortest: int = 1) -> growth.Sampler:
    """Rollouts, different ones each time that a prefix is asked."""

    def sample(prefix: Path, want: int, time: int) -> list[tuple[Path, tuple[float, ...], float]]:
        rng, out = draw(seed, time, *prefix), []
        for _ in range(want):
            size = int(rng.integers(shortest, 12))
            tokens = tuple(int(t) for t in rng.integers(0, 9, size))
            # Some cannot be branched at, some are equally unlikely.
            log_probs = tuple(-float(x) / 8 for x in rng.integers(0, 40, size))
            out.append((tokens, log_probs, float(rng.integers(0, 3))))
        return out

    return sample


def grown(search: ap.Search, sample: growth.Sampler) -> list[tuple[Path, int]]:
    """Answers one request after another; the prefixes and how much is wanted."""
    asked: list[tuple[Path, int]] = []
    while leaves := search.select(1):
        prefix, want = tuple(leaves.tokens()[0].tolist()), int(leaves.want[0])
        rows = sample(prefix, want, len(asked))
        told: dict[str, Any] = {
            "rollouts": [[reward for *_, reward in rows]],
            "rollout_tokens": [[list(tokens) for tokens, *_ in rows]],
            "rollout_log_probs": [[list(log_probs) for _, log_probs, _ in rows]],
        }
        search.expand(leaves, **told)
        asked.append((prefix, want))
    return asked


def assert_stats(search: ap.Search, want: growth.Stats) -> None:
    nodes = search.nodes()
    assert nodes.visits.tolist() == [visits for visits, _ in want]
    np.testing.assert_allclose(nodes.value_sum, [total for _, total in want], atol=1e-12)


@pytest.mark.parametrize("decay", ["constant", "linear", "exponential"])
@seeds
def test_rstar(seed: int, decay: str) -> None:
    def evaluate(path: Path) -> tuple[float, int, bool]:
        rng = draw(seed, *path)
        return float(rng.uniform(-1, 1)), int(rng.integers(1, 5)), bool(path and rng.random() < 0.2)

    options: dict[str, Any] = {"c": 0.7, "decay": decay, "seed": 2**40 + seed}
    search = ap.Search(2, 10**4, rule="rstar", num_simulations=60, **options)
    asked: list[list[int]] = [[], []]
    paths: list[list[Path]] = [[()], [()]]
    while leaves := search.select(1):
        tree, node = int(leaves.tree[0]), int(leaves.node[0])
        asked[tree].append(node)
        path = paths[tree][node]
        value, width, end = evaluate(path)
        width = 0 if end else width
        paths[tree] += [(*path, i) for i in range(width)]
        search.expand(leaves, values=[value], terminal=[end], children=width)
    want = [
        growth.rstar(evaluate, 60, 0.7, decay, seed=2**40 + seed, tree=tree) for tree in range(2)
    ]
    assert asked == [one for one, _ in want] and asked[0] != asked[1]
    assert_stats(search, [row for _, stats in want for row in stats])


@pytest.mark.parametrize(
    "chains, tokens, branches, rounds", [(6, 2, 2, 1), (2, 3, 1, 4), (1, 1, 3, 0)]
)
@seeds
def test_treerl(seed: int, chains: int, tokens: int, branches: int, rounds: int) -> None:
    options = {"chains": chains, "tokens": tokens, "branches": branches, "rounds": rounds}
    search = ap.Search(1, 10**4, rule="treerl", **options)
    asked, stats = growth.treerl(sampler(seed), **options)
    assert grown(search, sampler(seed)) == asked
    assert_stats(search, stats)


@pytest.mark.parametrize("end", [None, STEP_END])
@seeds
def test_tree_grpo(seed: int, end: int | None) -> None:
    search = ap.Search(
        1, 10**4, rule="tree_grpo", expansions=4, rounds=5, step_token=end, seed=seed
    )
    asked, stats = growth.tree_grpo(sampler(seed), 4, 5, end, seed, tree=0)
    assert grown(search, sampler(seed)) == asked
    assert_stats(search, stats)


def steps_of(seed: int, ends: float) -> growth.Steps:
    def steps(path: Path, want: int) -> list[tuple[float, bool, int]]:
        rng = draw(seed, *path)
        rows = [(rng.random(), rng.random() < ends, rng.integers(0, 3)) for _ in range(want)]
        return [(float(value), bool(end), int(key)) for value, end, key in rows]

    return steps


def segmented(search: ap.Search, steps: growth.Steps) -> tuple[list[tuple[int, int]], set[Any]]:
    """The nodes asked and their widths, and which kinds of request at which depths."""
    asked, kinds, paths = [], set(), [()]
    while leaves := search.select(1):
        node, want = int(leaves.node[0]), int(leaves.want[0])
        asked.append((node, want))
        kinds.add((int(leaves.depth[0]), KINDS[leaves.kind[0]], int(leaves.length[0])))
        rows = steps(paths[node], want)
        paths += [(*paths[node], i) for i in range(want)]
        values, ends, keys = (list(column) for column in zip(*rows, strict=True))
        told = {"child_values": [values], "child_terminal": [ends], "keys": [keys]}
        search.expand(leaves, values=[0.0], **told)
    return asked, kinds


@pytest.mark.parametrize("ends", [0.0, 0.3])
@seeds
def test_segment_trees(seed: int, ends: float) -> None:
    steps = steps_of(seed, ends)
    search = ap.Search(1, 10**4, rule="treepo", seed=seed, depth=5, divergence=3, first_low=2)
    asked, kinds = segmented(search, steps)
    want = growth.treepo(steps, 3, (2, 8), 5, 16, seed, tree=0)
    assert asked == want[0] and {(kind, length) for _, kind, length in kinds} == {("partial", 512)}
    assert_stats(search, want[1])

    search = ap.Search(1, 10**4, rule="spo_tree", widths=[3, 2, 4], segment_tokens=9)
    asked, kinds = segmented(search, steps)
    want = growth.spo_tree(steps, [3, 2, 4])
    assert asked == want[0]
    assert kinds <= {(0, "partial", 9), (1, "partial", 9), (2, "expand", 0)}
    assert_stats(search, want[1])

    search = ap.Search(1, 10**4, rule="tree_ps_rag", width=4, depth=3)
    asked, kinds = segmented(search, steps)
    want = growth.tree_ps_rag(steps, 4, 3)
    assert asked == want[0] and {kind for _, kind, _ in kinds} == {"expand"}
    assert_stats(search, want[1])


def solutions(seed: int, rewards: tuple[float, ...]) -> Any:
    """Solutions, some of which begin alike, and rollouts whose chances lie with the prefix."""

    def sample(prefix: Path, want: int, time: int) -> list[tuple[Path, float]]:
        rng, chance = draw(seed, time, *prefix), draw(seed, *prefix).random()
        out = []
        for _ in range(want):
            tokens = tuple(int(t) for t in rng.integers(2, 4, int(rng.integers(1, 9))))
            reward = (
                rewards[int(rng.integers(len(rewards)))] if rng.random() < chance else rewards[0]
            )
            out.append((tokens, reward))
        return out

    return sample


def by_confidence(sample: Any, select: int = 1, **options: Any) -> tuple[ap.Search, list[Path]]:
    search = ap.Search(1, 10**4, rule="confidence", **options)
    asked: list[Path] = []
    while leaves := search.select(select, per_tree=select):
        flat, offsets = leaves.tokens()
        prefixes = [tuple(flat[a:b].tolist()) for a, b in itertools.pairwise(offsets)]
        rows = [
            sample(prefix, int(want), len(asked) + i)
            for i, (prefix, want) in enumerate(zip(prefixes, leaves.want, strict=True))
        ]
        asked += prefixes
        search.expand(
            leaves,
            rollouts=[[reward for _, reward in row] for row in rows],
            rollout_tokens=[[list(tokens) for tokens, _ in row] for row in rows],
        )
    return search, asked


@pytest.mark.parametrize("end", [None, STEP_END])
@pytest.mark.parametrize("rewards", [(0.0, 1.0), (-1.0, 0.25, 2.0)])
@seeds
def test_confidence(seed: int, rewards: tuple[float, ...], end: int | None) -> None:
    sample = solutions(seed, rewards)
    options = {"solutions": 3, "rollouts": 2, "width": 0.6, "low": rewards[0], "high": rewards[-1]}
    search, asked = by_confidence(
        sample, step_token=end, max_rollouts=120, variance=True, **options
    )
    want, found = growth.confidence(sample, end=end, budget=120, **options)
    assert asked == want
    nodes, tokens = search.nodes(), search.tokens()
    spans = [tokens[0][a:b].tolist() for a, b in itertools.pairwise(tokens[1])]
    path: list[Path] = [()]
    for node in range(1, len(spans)):
        path.append((*path[nodes.parent[node]], *spans[node]))
    assert set(path) == set(found) and len(path) == len(found), "each prefix is one state"
    for node, prefix in enumerate(path):
        assert nodes.visits[node] == len(found[prefix])
        np.testing.assert_allclose(nodes.value_sum[node], sum(found[prefix]), atol=1e-12)
        if len(found[prefix]) > 1:
            variance = np.var(found[prefix], ddof=1)
            np.testing.assert_allclose(nodes.variance[node], variance, atol=1e-12)


def test_confidence_goes_where_the_answer_hangs() -> None:
    """Steps that always succeed or fail get few rollouts, the one between many."""

    def sample(prefix: Path, want: int, time: int) -> list[tuple[Path, float]]:
        rng = draw(time)
        chance = {0: 1.0, 1: 1.0, 2: 0.5, 3: 0.0, 4: 0.0}[len(prefix)]
        return [((2, 2, 2, 2, 2), float(rng.random() < chance)) for _ in range(want)]

    search, _ = by_confidence(sample, solutions=1, width=0.3)
    visits = search.nodes().visits
    assert len(visits) == 5 and visits[2] > 2 * max(visits[[0, 1, 3, 4]])
    credit = search.credit("vineppo", value_mode="visit")
    values = search.nodes().value
    np.testing.assert_allclose(credit.values["advantages"][1][1:5], np.diff(values))


def test_confidence_at_its_limits() -> None:
    def same(prefix: Path, want: int, time: int) -> list[tuple[Path, float]]:
        return [((2, 2, 2), 1.0)] * want

    search, asked = by_confidence(same, solutions=4, width=0.0, max_rollouts=40)
    assert asked[:4] == [(), (2,), (2, 2), ()], "equal everywhere: in turn"
    assert np.ptp(search.nodes().visits) <= 4
    search, asked = by_confidence(same, solutions=1, rollouts=1, width=0.9)
    assert search.nodes().visits.tolist() == [1, 1, 1], "one rollout each, no variance yet"
    search, asked = by_confidence(lambda *_: [((2,), 0.0)], solutions=1, rollouts=1, width=0.8)
    assert len(search.nodes().visits) == 1 and len(asked) > 1, "one step: the root alone"
    search, asked = by_confidence(same, solutions=2, low=1.0, high=1.0)
    assert asked == [()], "no reward can differ"
    search, asked = by_confidence(same, solutions=1, max_requests=1)
    assert asked == [()] and search.nodes().visits.tolist() == [1, 0, 0]
    search, asked = by_confidence(same, solutions=1, max_depth=1, width=0.5)
    assert len(search.nodes().visits) == 2 and set(asked) == {(), (2,)}
    wide = by_confidence(same, solutions=1, width=2.0)[1]
    assert wide == [()], "no interval of rewards of 0 and 1 is so wide"


def test_confidence_does_not_depend_on_timing() -> None:
    sample = solutions(5, (0.0, 1.0))

    def keyed(prefix: Path, want: int, time: int) -> list[tuple[Path, float]]:
        return sample(prefix, want, 0)  # by the prefix alone

    one, _ = by_confidence(keyed, select=3, max_rollouts=90)
    two = ap.Search(1, 10**4, rule="confidence", max_rollouts=90)
    rng = np.random.default_rng(0)
    while leaves := two.select(3, per_tree=3):
        for i in rng.permutation(len(leaves)):
            leaf = leaves[i]
            row = keyed(tuple(leaf.tokens()[0].tolist()), int(leaf.want[0]), 0)
            tokens = [[list(tokens) for tokens, _ in row]]
            two.expand(leaf, rollouts=[[reward for _, reward in row]], rollout_tokens=tokens)
    assert one.nodes().visits.tolist() == two.nodes().visits.tolist()
    assert one.rollouts().reward.tolist() == two.rollouts().reward.tolist()


def test_confidence_needs_rollouts() -> None:
    search = ap.Search(1, 100, rule="confidence")
    leaves = search.select(1)
    with pytest.raises(ap.InputError, match=r"rollout_tokens\[0\]: got nothing"):
        search.expand(leaves, rollouts=[[1.0]])
    with pytest.raises(ap.InputError, match=r"rollouts\[0\]: got nothing"):
        search.expand(leaves, values=[1.0])
    search.expand(leaves, rollouts=[[1.0]], rollout_tokens=[[[1, 2]]])
    search.expand(search.select(1), rollouts=[[1.0, 0.0, 1.0, 0.0]])  # a probe needs no tokens
    with pytest.raises(ap.OptionError, match="width: got -1"):
        ap.Search(1, 100, rule="confidence", width=-1.0)
