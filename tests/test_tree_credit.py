"""Credit from trees: both forms of a tree, against the naive oracles and against each other."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion import tree_credit
from oracles import trees as oracle
from oracles.common import group_normalise

SEEDS = range(12)
TREE_METHODS = ("treerl", "tree_grpo", "treepo", "spo", "tree_ps_rag")


@dataclass
class Forest:
    """Random trees: two roots, up to four children, some leaves without an outcome."""

    parents: list[int]
    scores: np.ndarray
    lengths: np.ndarray

    @property
    def leaves(self) -> list[int]:
        return [n for n in range(len(self.parents)) if n not in self.parents]

    @property
    def inner(self) -> np.ndarray:
        return np.isin(np.arange(len(self.parents)), self.parents)

    def rows(self, **columns: Any) -> ap.Rollouts:
        """Nodes as rows."""
        return ap.Rollouts.from_tree(
            self.parents,
            token_offsets=np.cumsum([0, *self.lengths]),
            outcome_rewards=self.scores,
            **columns,
        )

    def paths(self) -> ap.Rollouts:
        """A row a leaf, shared prefixes repeated."""
        nodes = [oracle.path(self.parents, leaf) for leaf in self.leaves]
        ends = [np.cumsum([0, *self.lengths[path[1:]]]) for path in nodes]
        return ap.Rollouts.from_ragged(
            np.cumsum([0, *[end[-1] for end in ends]]),
            turn_spans=[list(itertools.pairwise(end)) for end in ends],
            node_ids=[path[1:] for path in nodes],
            group_ids=[path[0] for path in nodes],
            outcome_rewards=self.scores[self.leaves],
        )

    def path_nodes(self) -> np.ndarray:
        """The node of each turn of `paths`."""
        return np.concatenate([oracle.path(self.parents, leaf)[1:] for leaf in self.leaves])


def forest(seed: int, absent: float = 0.15) -> Forest:
    rng = np.random.default_rng(seed)
    parents = [-1, -1]
    for level in ([0, 1], None, None):
        for node in level or [n for n in range(len(parents)) if n not in parents]:
            if level or rng.random() < 0.7:
                parents += [node] * int(rng.integers(1, 5))
    scores = rng.integers(0, 3, len(parents)) / 2
    scores[rng.random(len(parents)) < absent] = np.nan
    lengths = rng.integers(1, 5, len(parents))
    lengths[:2] = 0
    return Forest(parents, scores, lengths)


def node_credit(credit: ap.Credit, name: str = "advantages") -> np.ndarray:
    return (credit.extras.get(name) or credit.values[name])[1]


def same(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", ["leaf", "child", "visit", "max"])
def test_node_values(mode: str, seed: int) -> None:
    given = forest(seed)
    visits = np.random.default_rng(seed).integers(0, 3, len(given.parents)).astype(float)
    got = tree_credit.node_values(given.parents, given.scores, value_mode=mode, visits=visits)
    same(got, oracle.values(given.parents, given.scores, mode, visits))


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "tree_ps_rag": [
        {},
        {"baseline": "sibling"},
        {"baseline": "parent", "value_mode": "child"},
        {"per_leaf_root": True, "value_mode": "max"},
    ],
    "treerl": [
        {},
        {"centre": "step", "weighted": False},
        {"centre": "none", "state_value": False},
    ],
    "spo": [{}, {"scale": True}],
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("method", "options"), [(m, o) for m, listed in OPTIONS.items() for o in listed]
)
def test_as_the_oracle_says(method: str, options: dict[str, Any], seed: int) -> None:
    given = forest(seed)
    arguments = (given.parents, given.scores)
    if method == "tree_ps_rag":
        names = {"value_mode": "mode"}
        want = oracle.tree_ps_rag(*arguments, **{names.get(k, k): v for k, v in options.items()})
    elif method == "treerl":
        want = oracle.treerl(*arguments, list(given.lengths), **options)[0]
    else:
        want = oracle.spo(*arguments, scale=options.get("scale", False))[0]
    credit = ap.credit(method, given.rows(), **options)
    same(node_credit(credit), want)
    same(
        ap.credit(method, given.paths(), **options).turn_advantages,
        np.array(want)[given.path_nodes()],
    )
    assert credit.counts["absent"] == np.isnan(given.scores[given.leaves]).sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_tree_grpo(seed: int) -> None:
    given = forest(seed)
    rows, paths = given.rows(), given.paths()
    scores = given.scores[given.leaves]
    nodes = [oracle.path(given.parents, leaf) for leaf in given.leaves]
    inter = group_normalise(scores, [path[0] for path in nodes])
    intra = group_normalise(scores, [path[1] for path in nodes])
    # What is absent stays so in the second round.
    again = np.where(np.isnan(scores), np.nan, inter)
    twice = group_normalise(again, [path[1] for path in nodes])
    present = np.where(np.isnan(scores), np.nan, 1.0)
    for mode, want in (("tree", inter + intra), ("tree_inner", intra), ("tree_2norm", twice)):
        by_path = ap.credit("tree_grpo", paths, mode=mode)
        same(node_credit(by_path), want)
        of_leaves = np.full(len(given.parents), np.nan)
        of_leaves[given.leaves] = want * present
        means = np.nan_to_num(oracle.values(given.parents, of_leaves, "leaf"))
        means[:2] = 0
        same(node_credit(ap.credit("tree_grpo", rows, mode=mode)), means)
    want = oracle.tree_grpo_diff(given.parents, given.scores)
    same(node_credit(ap.credit("tree_grpo", rows, mode="tree_diff")), want)
    got = ap.credit("tree_grpo", paths, mode="tree_diff").turn_advantages
    same(got, np.array(want)[given.path_nodes()])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("combine", ["average", "group_size"])
@pytest.mark.parametrize("drop_flat", [False, True])
def test_treepo_subgroups(combine: str, drop_flat: bool, seed: int) -> None:
    given, options = forest(seed), {"combine": combine, "drop_flat": drop_flat}
    found = oracle.treepo_path_scores(given.parents, given.scores, **options)
    want = [found.get(leaf, 0.0) for leaf in given.leaves]
    same(node_credit(ap.credit("treepo", given.paths(), whiten=False, **options)), want)
    tokens = [
        sum(given.lengths[oracle.path(given.parents, leaf)]) if leaf in found else 0
        for leaf in given.leaves
    ]
    white = np.nan_to_num(oracle.whitened(want, tokens))
    same(node_credit(ap.credit("treepo", given.paths(), **options)), white)
    of_leaves = np.full(len(given.parents), np.nan)
    for leaf, credit in zip(given.leaves, white, strict=True):
        of_leaves[leaf] = credit if leaf in found else np.nan
    means = np.nan_to_num(oracle.values(given.parents, of_leaves, "leaf"))
    means[:2] = 0
    same(node_credit(ap.credit("treepo", given.rows(), **options)), means)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "options", [{}, {"eta": 0.9}, {"sibling_norm": True}, {"against_prefixes": True, "eta": 0.5}]
)
def test_treepo_segments(options: dict[str, Any], seed: int) -> None:
    given, arguments = forest(seed, absent=0.0), dict(options)
    scores = given.scores
    if arguments.pop("against_prefixes", False):
        found = oracle.against_prefixes(given.parents, given.scores)
        scores = np.array([found.get(n, 0.0) for n in range(len(given.parents))])
    by_leaf = oracle.treepo_segments(given.parents, scores, **arguments)
    want = np.concatenate([by_leaf[leaf] for leaf in given.leaves])
    fixed = {"form": "segment", **options}
    same(ap.credit("treepo", given.paths(), whiten=False, **fixed).turn_advantages, want)
    tokens = list(given.lengths[given.path_nodes()])
    white = oracle.whitened(list(want), tokens)
    same(ap.credit("treepo", given.paths(), **fixed).turn_advantages, white)
    # A shared node gets the mean over the paths through it, here as there.
    rows = node_credit(ap.credit("treepo", given.rows(), whiten=False, **fixed))
    for node in set(given.path_nodes()):
        assert math.isclose(rows[node], want[given.path_nodes() == node].mean(), abs_tol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_vineppo(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, 8)
    mask = np.concatenate([[1, 0] * count for count in counts])
    rewards = [rng.integers(0, 2, count).astype(float) for count in counts]
    before = [np.where(rng.random(c) < 0.3, np.nan, rng.random(c)) for c in counts]
    last = np.where(rng.random(8) < 0.5, np.nan, rng.random(8))
    rollouts = ap.Rollouts.from_ragged(
        np.cumsum([0, *2 * counts]),
        mask=mask,
        turn_rewards=rewards,
        turn_values=before,
        final_values=last,
    )
    credit = ap.credit("vineppo", rollouts)
    want = [oracle.vineppo(r, b, e) for r, b, e in zip(rewards, before, last, strict=True)]
    same(credit.turn_advantages, np.concatenate([advantages for advantages, _ in want]))
    same(node_credit(credit, "values"), np.concatenate([filled[:-1] for _, filled in want]))


def test_vineppo_takes_the_outcome_where_turns_have_no_rewards() -> None:
    rollouts = ap.Rollouts.from_padded(
        [[1, 0, 1]], outcome_rewards=[1.0], turn_values=[[0.5, 0.25]], group_ids=[0]
    )
    assert ap.credit("vineppo", rollouts).turn_advantages.tolist() == [-0.25, 0.75]


def test_vineppo_and_spo_on_nodes_with_values_of_their_own() -> None:
    values = [0.5, np.nan, 0.75, np.nan, np.nan]
    scores = [np.nan, np.nan, np.nan, 1.0, 0.0]
    rollouts = ap.Rollouts.from_tree([-1, 0, 1, 2, 2], outcome_rewards=scores, node_values=values)
    want = [0.0, 0.25, 0.0, 0.25, -0.75]
    for method in ("vineppo", "spo"):
        assert node_credit(ap.credit(method, rollouts)).tolist() == want


def test_spo_along_a_chain() -> None:
    log_probs = np.log([[0.5, 0.95, 0.2, 0.99]])
    rollouts = ap.Rollouts.from_padded(
        np.ones((1, 4)),
        turn_spans=[[(0, 2), (2, 4)]],
        turn_values=[[0.5, 0.25]],
        outcome_rewards=[1.0],
        old_log_probs=log_probs,
    )
    credit = ap.credit("spo", rollouts)
    assert credit.turn_advantages.tolist() == [-0.25, 0.75]
    assert credit.tokens("loss_mask").tolist() == [1, 0, 1, 0]


def test_cut_points() -> None:
    probs = np.array([0.1, 0.99, 0.2, 0.3, 0.99, 0.4, 0.99, 0.99])
    spans = tree_credit.cut_points(np.log(probs), [0, 6, 8], every=2)
    assert spans == [[(0, 3), (3, 6)], [(0, 2)]]
    with pytest.raises(ap.InputError, match=r"log_probs\[1\]"):
        tree_credit.cut_points([0.0, np.nan], [0, 2])


def test_the_example_of_the_specification() -> None:
    # root -> a, b; a -> leaves 1 and 0; b is a leaf of outcome 1.
    rollouts = ap.Rollouts.from_tree(
        [-1, 0, 0, 1, 1], outcome_rewards=[np.nan, np.nan, 1.0, 1.0, 0.0]
    )
    credit = ap.credit("tree_ps_rag", rollouts)
    same(node_credit(credit), [0, -1 / 3, 2 / 3, 5 / 6, -7 / 6])
    assert credit.counts == {"groups": 1, "singletons": 0, "zero_spread": 0, "absent": 0}


@pytest.mark.parametrize("method", TREE_METHODS)
@pytest.mark.parametrize("score", [0.1, 1 / 3, 1e30, -7.7e-9])
def test_equal_outcomes_give_exactly_zero(method: str, score: float) -> None:
    given = forest(3, absent=0.0)
    given.scores[:] = score
    options = {"treepo": {"whiten": False}}.get(method, {})
    assert not node_credit(ap.credit(method, given.rows(), **options)).any()
    credit = ap.credit(method, given.paths(), **options)
    assert not node_credit(credit).any()
    assert credit.counts["zero_spread"] == 2


@pytest.mark.parametrize("method", TREE_METHODS)
def test_degenerate_trees(method: str) -> None:
    for parents in ([], [-1], [-1, -1], [-1, 0, 1, 2]):
        for score in (np.nan, 1.0):
            scores = np.full(len(parents), score)
            credit = ap.credit(method, ap.Rollouts.from_tree(parents, outcome_rewards=scores))
            assert np.isfinite(credit.advantages).all()
            assert not credit.advantages[np.array(parents, int) < 0].any(), "roots get 0"


@pytest.mark.parametrize("method", TREE_METHODS)
def test_a_chain_of_a_million_nodes(method: str) -> None:
    count = 1_000_000
    scores = np.full(count, np.nan)
    scores[-1] = 1.0
    rollouts = ap.Rollouts.from_tree(np.arange(-1, count - 1), outcome_rewards=scores)
    assert np.isfinite(ap.credit(method, rollouts).advantages).all()


def large(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Parents and scores of trees that together are many parts of what is read at a time."""
    rng, trees = np.random.default_rng(seed), []
    for count in (1, 9_000, 50, 3_000, 2_000, 1, 4_096):
        back = np.minimum(rng.integers(1, 30, count), np.arange(count))
        scores = rng.choice([0.0, 1.0, 0.25, np.nan], count)
        trees.append((np.where(np.arange(count) == 0, -1, np.arange(count) - back), scores))
    return trees


@pytest.mark.parametrize("method", TREE_METHODS)
def test_trees_do_not_see_each_other(method: str) -> None:
    """Many trees at once, in a row and mixed, on one thread and on two, as each alone."""
    trees = large(1)
    options: list[dict[str, Any]] = [{}]
    if method == "tree_grpo":
        options = [{"mode": mode} for mode in ("tree", "tree_2norm", "tree_diff")]
    if method == "treepo":
        options = [{"whiten": False}, {"whiten": False, "form": "segment", "eta": 0.9}]
    starts = np.cumsum([0, *(len(parents) for parents, _ in trees)])
    row = [np.where(p < 0, -1, p + start) for (p, _), start in zip(trees, starts, strict=False)]
    parents, scores = np.concatenate(row), np.concatenate([scores for _, scores in trees])
    # Mixed: nodes of all trees in the order of random keys that grow along each tree.
    rng = np.random.default_rng(2)
    keys = np.concatenate([np.sort(rng.random(len(p))) for p, _ in trees])
    order = np.argsort(keys, kind="stable")
    place = np.argsort(order)
    mixed = np.where(parents[order] < 0, -1, place[parents[order]])
    for given in options:

        def of(parents: np.ndarray, scores: np.ndarray, given: Any = given) -> np.ndarray:
            rollouts = ap.Rollouts.from_tree(parents, outcome_rewards=scores)
            return ap.credit(method, rollouts, **given).values["advantages"][1]

        together = of(parents, scores)
        with ap.num_threads(2):
            np.testing.assert_array_equal(of(parents, scores), together)
        alone = np.concatenate([of(*tree) for tree in trees])
        np.testing.assert_array_equal(together, alone)
        np.testing.assert_allclose(of(mixed, scores[order])[place], together, atol=1e-12)


def test_tokens_of_nodes_by_default() -> None:
    """Without offsets a node is a token: the same as with offsets that say so."""
    parents, scores, mask = [-1, 0, 0, 1, 1], [0.0, 0.0, 1.0, 0.0, 1.0], [1, 1, 0, 1, 1]
    for given in ({}, {"mask": mask}):
        plain = ap.Rollouts.from_tree(parents, outcome_rewards=scores, **given)
        listed = ap.Rollouts.from_tree(
            parents, outcome_rewards=scores, token_offsets=range(6), **given
        )
        for method in TREE_METHODS:
            one, two = ap.credit(method, plain), ap.credit(method, listed)
            np.testing.assert_array_equal(one.advantages, two.advantages)
        for rollouts in (plain, listed):
            with pytest.raises(ap.InputError, match="to_padded: the rollouts came in ragged"):
                ap.credit("treerl", rollouts).to_padded()
    with pytest.raises(ap.InputError, match=r"mask: got shape \(2,\), expected \(5,\)"):
        ap.Rollouts.from_tree(parents, outcome_rewards=scores, mask=[1, 1])


def test_paths_that_end_where_others_go_on() -> None:
    rollouts = ap.Rollouts.from_padded(
        [[1, 0, 1], [1, 0, 0], [1, 0, 0]],
        group_ids=[0, 0, 0],
        node_ids=[["a", "b"], ["a"], ["a"]],
        outcome_rewards=[1.0, 0.0, 0.5],
    )
    credit = ap.credit("tree_ps_rag", rollouts, baseline="parent")
    assert credit.turn_advantages.tolist() == [0.0, 0.5, 0.0, 0.0]
    same(node_credit(ap.credit("treepo", rollouts, whiten=False)), [0.5, -0.5, 0.0])


def test_tokens_in_kind() -> None:
    torch = pytest.importorskip("torch")
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    rollouts = ap.Rollouts.from_padded(
        mask, parents=torch.tensor([-1, 0, 0]), outcome_rewards=torch.tensor([0.0, 1.0, 0.0])
    )
    padded = ap.credit("spo", rollouts).to_padded()
    assert padded.dtype == torch.float32
    assert padded.tolist() == [[0, 0, 0], [0.5, 0.5, 0.5], [-0.5, 0, 0]]


BAD: list[tuple[str, Any, str]] = [
    ("a cycle", [-1, 2, 1], r"parents\[1\]: got 2"),
    ("its own parent", [0], r"parents\[0\]: got 0"),
    ("a parent after its child", [-1, 2, 0], r"parents\[1\]: got 2, expected -1 for a root"),
    ("a parent below -1", [-1, -2], r"parents\[1\]: got -2"),
    ("beyond the last", [-1, 0, 7], r"parents\[2\]: got 7"),
]


@pytest.mark.parametrize(("parents", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_parents_are_named(parents: list[int], says: str) -> None:
    scores = np.ones(len(parents))
    rollouts = ap.Rollouts.from_tree(parents, outcome_rewards=scores)
    for method in TREE_METHODS:
        with pytest.raises(ap.InputError, match=says):
            ap.credit(method, rollouts)
    offsets = np.arange(len(parents) + 1)
    for call in (
        lambda: tree_credit.node_values(parents, scores, value_mode="leaf"),
        lambda: tree_credit.preference_pairs(parents, scores),
        lambda: tree_credit.step_labels(parents, scores),
        lambda: tree_credit.pack(parents, offsets),
    ):
        with pytest.raises(ap.InputError, match=says):
            call()


@pytest.mark.parametrize("offsets", [None, [0, 1, 2]])
@pytest.mark.parametrize(
    ("parents", "says"),
    [
        ([-1.0, 0.0], "got an array of float64, expected integers"),
        ([-1, 2**64 - 1], "got .*, expected integers"),
        ([[-1, 0]], r"got shape \(1, 2\), expected one dimension"),
        (None, "got .*, expected integers"),
    ],
)
def test_parents_of_the_wrong_kind_are_named(parents: Any, says: str, offsets: Any) -> None:
    with pytest.raises(ap.InputError, match=f"parents: {says}"):
        ap.Rollouts.from_tree(parents, token_offsets=offsets, outcome_rewards=[0.0, 1.0])


def test_other_wrong_input_is_named() -> None:
    tree = [-1, 0, 0]

    def rows(**columns: Any) -> ap.Rollouts:
        return ap.Rollouts.from_tree(tree, **{"outcome_rewards": [0.0, 1.0, 0.0], **columns})

    wrong: list[tuple[Any, str]] = [
        (lambda: rows(outcome_rewards=[0.0, np.inf, 0.0]), r"outcome_rewards\[1\]"),
        (lambda: rows(outcome_rewards=[0.0, 1.0]), "outcome_rewards: got 2.*expected 3"),
        (lambda: rows(node_values=[0.0, np.inf, 0.0]), r"node_values\[1\]"),
        (lambda: rows(visits=[1.0, -1.0, 0.0]), r"visits\[2?1?\]"),
        (lambda: rows(token_offsets=[0, 1, 2]), "parents|outcome_rewards"),
    ]
    for make, says in wrong:
        with pytest.raises(ap.InputError, match=says):
            ap.credit("spo", make(), value_mode="visit" if "visits" in says else "child")
    with pytest.raises(ap.MissingColumnError, match="visits"):
        ap.credit("spo", rows(), value_mode="visit")
    with pytest.raises(ap.MissingColumnError, match="node_ids"):
        ap.credit("treerl", ap.Rollouts.from_padded([[1]], outcome_rewards=[1.0]))
    with pytest.raises(ap.InputError, match="parents: got strings"):
        given = ap.Rollouts.from_padded([[1]], outcome_rewards=[1.0], parents=["root"])
        ap.credit("treerl", given)
    with pytest.raises(ap.InputError, match="parents: got rows that are turns"):
        given = ap.Rollouts.from_padded(
            [[1], [1]], outcome_rewards=[1.0, 1.0], parents=[-1, 0], trajectory_ids=[0, 0]
        )
        ap.credit("treerl", given)
    with pytest.raises(ap.InputError, match="visits: got paths"):
        given = ap.Rollouts.from_padded(
            [[1]], group_ids=[0], outcome_rewards=[1.0], node_ids=[["a"]], visits=[1.0]
        )
        ap.credit("spo", given)
    with pytest.raises(ap.OptionError, match="value_mode"):
        tree_credit.node_values(tree, np.ones(3), value_mode="median")
    with pytest.raises(ap.InputError, match=r"values\[2\]: got inf"):
        tree_credit.node_values(tree, [0.0, 0.0, np.inf], value_mode="leaf")
    with pytest.raises(ap.InputError, match=r"splits\[1\]: got 9, expected 0 to 4"):
        tree_credit.cut_chains([-1, 0], [0, 9], [4, 2])


def test_pairs_and_labels() -> None:
    parents = [-1, 0, 0, 0, 1, 1]
    values = [0.5, 0.75, 0.0, np.nan, 1.0, 0.5]
    pairs = tree_credit.preference_pairs(parents, values)
    assert pairs.chosen.tolist() == [1, 4] and pairs.rejected.tolist() == [2, 5]
    assert pairs.margin.tolist() == [0.75, 0.5] and pairs.parent.tolist() == [0, 1]
    assert len(tree_credit.preference_pairs(parents, values, margin=0.5)) == 1
    every = tree_credit.preference_pairs([-1, 0, 0, 0], [0, 1.0, 0.5, 0.5], of="all")
    assert every.chosen.tolist() == [1, 1] and every.rejected.tolist() == [2, 3]
    labels = tree_credit.step_labels(parents, values)
    assert labels.hard.tolist() == [1, 1, 0, -1, 1, 1]
    assert labels.first_error.tolist() == [-1, -1, 2, -1, -1, -1]
    assert labels.first_error_step.tolist() == [-1, -1, 0, -1, -1, -1]
    strict = tree_credit.step_labels([-1, 0, 1, 2], [1.0, 1.0, 0.25, 1.0], threshold=0.5)
    assert strict.first_error.tolist() == [-1, -1, 2, 2]
    assert strict.first_error_step.tolist() == [-1, -1, 1, 1]
    with pytest.raises(ap.OptionError, match="margin"):
        tree_credit.preference_pairs(parents, values, margin=float("nan"))


def test_a_column_that_would_do_as_well_is_named() -> None:
    tree = ap.Rollouts.from_tree([-1, 0], outcome_rewards=[np.nan, 1.0])
    with pytest.raises(ap.MissingColumnError, match=r'"turn_values".*"node_values" would do as w'):
        ap.credit("vineppo", tree)
