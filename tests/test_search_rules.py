"""Rules of search against naive ones, at their limits, and with wrong input."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.search import rules
from apportion.search.data import KINDS
from apportion.search.rules import RuleCard
from golden_replay_readouts import READOUTS
from golden_replay_rules import RULES_REPLAY
from golden_replay_tree import TREE_REPLAY
from oracles import rules as naive
from test_golden import OWN

CARDS = ap.search_rules().values()
by_rule = pytest.mark.parametrize("card", CARDS, ids=[card.name for card in CARDS])
PLAIN = {"puct": 1.25, "uct": 2**0.5, "alphamath": 1.5, "prorag": 2.5, "rstar_math": 2.0,
         "propa": 1.0, "groundedprm": 2**0.5, "rest_mcts": 0.7, "llm_reasoners": 1.0}  # fmt: skip


@by_rule
def test_card(card: RuleCard) -> None:
    """A formula or a procedure, a source, and what happens at the limits."""
    assert card.title and card.paper and len(card.doc.split()) > 20, card.name
    assert "crate::" not in card.doc, f"{card.name}: its documentation is read in Python"
    assert card.certainty in ("code", "paper", "third-party", "reconstructed", "own")
    assert card.family in ("descent", "pool", "beam", "branching")
    assert re.search(r"[Tt]ies|[Uu]nvisited|[Ww]ithout|[Ee]qual|drawn|range|of 0", card.doc), (
        card.name
    )
    for option in card.options:
        assert len(option.doc.split()) >= 2 and option.expected, f"{card.name}: {option.name}"


@pytest.fixture(scope="module")
def replayed() -> set[str]:
    """Rules that some reference case runs."""
    seen: set[str] = set()
    search, scores = ap.Search, rules.rule_scores

    def recorded(*args: Any, rule: str, **options: Any) -> Any:
        seen.add(rule)
        return search(*args, rule=rule, **options)

    def scored(rule: str, **columns: Any) -> Any:
        seen.add(rule)
        return scores(rule, **columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ap, "Search", recorded)
        patch.setattr(rules, "rule_scores", scored)
        for folder, replay in {**TREE_REPLAY, **READOUTS, **RULES_REPLAY}.items():
            for path in sorted((OWN / folder).glob("case_*.json")):
                replay(json.loads(path.read_text()))
    return seen


@by_rule
def test_code_is_claimed_with_cases_only(card: RuleCard, replayed: set[str]) -> None:
    """A rule that is said to agree with its authors' code is run on cases that prove it."""
    assert (card.certainty == "code") == (card.name in replayed)


@pytest.mark.parametrize("rule", PLAIN)
def test_scores(rule: str) -> None:
    draw = np.random.default_rng(3)
    for width in (1, 2, 7):
        visits = draw.integers(0, 5, width)
        sums = draw.normal(size=width) * (visits > 0)
        # Priors are kept in single precision: eighths are exact in it.
        priors, values = draw.integers(1, 9, width) / 8, draw.normal(size=width)
        got = rules.rule_scores(
            rule, visits=visits, value_sums=sums, priors=priors, child_values=values
        )
        want = naive.scores(rule, visits, sums, priors, values, PLAIN[rule])
        np.testing.assert_allclose(got, want, rtol=1e-7)


def test_first_play() -> None:
    stats = {"visits": [3, 1, 0], "value_sums": [1.5, -1.0, 0.0], "priors": [0.25, 0.25, 0.5]}
    explore = 1.25 * np.sqrt(4) * 0.5

    def last(mode: str, **options: Any) -> float:
        given = {**stats, "child_values": [0, 0, 0.7], "first_play": mode, **options}
        return float(rules.rule_scores("puct", **given)[2])

    parent = 0.5 / 4
    assert last("zero") == pytest.approx(explore)
    assert last("parent") == pytest.approx(parent + explore)
    assert last("value") == pytest.approx(0.7 + explore)
    assert last("reduced") == pytest.approx(parent - 0.33 * np.sqrt(0.5) + explore)
    assert last("infinite") == np.inf


def table(seed: int) -> Any:
    """Steps that depend on the path alone: scores and ends."""

    def steps(path: naive.Path, width: int) -> list[tuple[float, bool]]:
        draw = np.random.default_rng([seed, *path, len(path)])
        return [(float(draw.uniform(0.1, 1)), bool(draw.uniform() < 0.2)) for _ in range(width)]

    return steps


def paths(search: ap.Search, nodes: list[int]) -> list[naive.Path]:
    all_nodes = search.nodes()
    out = []
    for node in nodes:
        path: list[int] = []
        while (parent := int(all_nodes.parent[node])) >= 0:
            path.append(int(node - all_nodes.first_child[parent]))
            node = parent
        out.append(tuple(path[::-1]))
    return out


@pytest.mark.parametrize(
    "rule, keep, width", [("pra", 3, 4), ("swe_trace", 1, 5), ("dpo_beam", 4, 2)]
)
@pytest.mark.parametrize("seed", range(4))
def test_beams(rule: str, keep: int, width: int, seed: int) -> None:
    steps = table(seed)
    options = {"width": width, "rounds": 6, **({} if rule == "swe_trace" else {"beams": keep})}
    search = ap.Search(1, 10**5, rule=rule, **options)
    while leaves := search.select(3):
        rows = [steps(path, width) for path in paths(search, leaves.node.tolist())]
        values = [[score for score, _ in row] for row in rows]
        column = "priors" if rule == "dpo_beam" else "child_values"
        ends = [[end for _, end in row] for row in rows]
        told = {"child_values": values, column: values}
        search.expand(leaves, values=[0.0] * len(rows), child_terminal=ends, **told)
    worth = {
        "pra": sum,
        "swe_trace": lambda own: own[-1] if own else 0.0,
        "dpo_beam": lambda own: sum(np.log(np.float32(own), dtype=np.float64)),
    }[rule]
    want = naive.beams(steps, worth, keep, width, 6)
    assert paths(search, search.finals(0).tolist()) == want


class Sampler:
    """Rollouts of random digits that are wrong once they hold a 0, the same for a prefix."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count

    def __call__(self, prefix: naive.Path) -> list[tuple[naive.Path, bool]]:
        draw = np.random.default_rng([self.seed, len(prefix), *prefix])
        out = []
        for _ in range(self.count):
            tokens = tuple(int(t) for t in draw.integers(0, 12, draw.integers(1, 25)))
            out.append((tokens, 0 not in prefix and 0 not in tokens))
        return out


@pytest.mark.parametrize("seed", range(6))
def test_omegaprm(seed: int) -> None:
    roots = 3
    samplers = [Sampler(10 * seed + t, 4) for t in range(roots)]
    search = ap.Search(roots, 10**5, rule="omegaprm", rollouts=4, min_span=3, num_simulations=8)
    estimated: list[dict[naive.Path, float]] = [{} for _ in range(roots)]
    while leaves := search.select(2):
        flat, offsets = leaves.tokens()
        rewards, tokens = [], []
        for tree, start, end in zip(leaves.tree, offsets[:-1], offsets[1:], strict=True):
            prefix = tuple(flat[start:end].tolist())
            rollouts = samplers[tree](prefix)
            assert prefix not in estimated[tree], "a prefix is estimated twice"
            estimated[tree][prefix] = sum(right for _, right in rollouts) / 4
            rewards.append([float(right) for _, right in rollouts])
            tokens.append([list(own) for own, _ in rollouts])
        search.expand(leaves, rollouts=rewards, rollout_tokens=tokens)
    found = search.rollouts()
    edges, offsets = search.tokens()
    nodes = search.nodes()

    def prefix_of(tree: int, node: int) -> naive.Path:
        out: list[int] = []
        while node >= 0:
            row = nodes.offsets[tree] + node
            out = [*edges[offsets[row] : offsets[row + 1]].tolist(), *out]
            node = int(nodes.parent[row])
        return tuple(out)

    for tree in range(roots):
        mc, log = naive.omegaprm(samplers[tree], 8, 3)
        assert estimated[tree] == mc
        got = []
        for rollout, good, bad in search.bisections(tree):
            row = found.offsets[tree] + rollout
            start = prefix_of(tree, int(found.node[row]))
            own = found.tokens[found.token_offsets[row] : found.token_offsets[row + 1]]
            low = prefix_of(tree, good[-1]) if good else start
            got.append(((*start, *own.tolist()), low, prefix_of(tree, bad[-1])))
        assert got == log


def test_omegaprm_may_screen_its_questions() -> None:
    search = ap.Search(2, 100, rule="omegaprm", rollouts=4, screening=32)
    leaves = search.select(2)
    assert leaves.want.tolist() == [32, 32]
    rewards = [[0.0] * 31 + [1.0], [1.0] * 32]
    tokens = [[[i, 1, 2, 3] for i in range(32)]] * 2
    search.expand(leaves, rollouts=rewards, rollout_tokens=tokens)
    leaves = search.select(2)
    assert leaves.tree.tolist() == [0] and leaves.want.tolist() == [4]


@pytest.mark.parametrize("per_tree", [1, 3])
def test_propa_counts_a_family_once(per_tree: int) -> None:
    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        n = len(leaves)
        if leaves.kind[0] == KINDS.index("rollout"):
            return {"values": [0.5] * n}
        ends = [[False, bool(node % 2), False, False] for node in leaves.node]
        return {"values": [0.5] * n, "child_values": [[0.0] * 4] * n, "child_terminal": ends}

    search = ap.Search(1, 10**4, rule="propa", num_simulations=20)
    search.run(evaluate, batch_size=1, per_tree=per_tree)
    assert search.simulations.tolist() == [20]
    grown = int((search.nodes().children > 0).sum())
    revisited = 20 - grown
    assert grown > 5 and revisited >= 0
    rollouts = search.requests[0] - grown
    assert rollouts > grown - revisited, "families of three rollouts are among them"


def test_treerl_branches_at_the_least_likely_tokens() -> None:
    search = ap.Search(1, 100, rule="treerl", chains=2, tokens=2, branches=3, rounds=1)
    leaves = search.select(8)
    assert leaves.want.tolist() == [2]
    tokens = [[1, 2, 3, 4], [5, 6, 7]]
    log_probs = [[-9.0, -0.1, -3.0, -0.2], [-0.5, 0.0, -2.0]]
    told = {"rollouts": [[1.0, 0.0]], "rollout_tokens": [tokens]}
    search.expand(leaves, **told, rollout_log_probs=[log_probs])
    leaves = search.select(8)
    flat, offsets = leaves.tokens()
    prefixes = [flat[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    # -9 stands first in its rollout and is left out; the next are -3 and -2.
    assert prefixes == [[1, 2], [5, 6]] and leaves.want.tolist() == [3, 3]
    told = {"rollouts": [[1.0] * 3] * 2, "rollout_tokens": [[[8]] * 3] * 2}
    search.expand(leaves, **told, rollout_log_probs=[[[-1.0]] * 3] * 2)
    assert not search.select(8)
    rollouts = search.rollouts()
    cut = rollouts.mark == 2**32 - 1
    assert cut.tolist() == [True, True] + [False] * 8
    spans = itertools.pairwise(rollouts.token_offsets)
    rest = [rollouts.tokens[a:b].tolist() for a, b in spans]
    assert rest[2:4] == [[3, 4], [7]], "what is left of the cut ones"
    nodes = search.nodes()
    # Four paths lead through each new node: the rest of the old rollout and three new ones.
    assert nodes.visits.tolist() == [8, 4, 4] and nodes.q.tolist() == [7 / 8, 1.0, 0.75]
    credit = search.credit("spo", value_mode="leaf")
    # Edges into the nodes, the two rollouts that were cut, their rests, the new ones.
    want = [1 / 8] * 2 + [-1 / 8] * 2 + [0.0] * 7 + [0.0] * 2 + [-3 / 4] + [0.0] * 3 + [1 / 4] * 3
    np.testing.assert_allclose(credit.advantages, want)


def test_tree_grpo_draws_the_same_nodes_again() -> None:
    def grow(seed: int) -> list[list[int]]:
        search = ap.Search(2, 100, rule="tree_grpo", expansions=3, rounds=2, seed=seed)
        asked = []
        while leaves := search.select(16):
            asked.append(leaves.tokens()[0].tolist())
            runs = [[[1, 2, 3, 4]]] * len(leaves)
            search.expand(leaves, rollouts=[[1.0]] * len(leaves), rollout_tokens=runs)
        assert (search.rollouts().mark != 2**32 - 1).sum() == 2 * (1 + 2 * 3)
        return asked

    assert grow(1) == grow(1) != grow(2)


def test_segment_trees_have_their_widths() -> None:
    search = ap.Search(1, 10**4, rule="spo_tree", widths=[3, 2, 2], segment_tokens=5)
    lengths = set()
    while leaves := search.select(64):
        last = leaves.depth == 2
        lengths |= set(zip(leaves.depth.tolist(), leaves.length.tolist(), strict=True))
        rows = [[1.0] * int(want) for want in leaves.want]
        ends = [[bool(end)] * len(row) for row, end in zip(rows, last, strict=True)]
        search.expand(leaves, values=[0.0] * len(rows), child_values=rows, child_terminal=ends)
    assert np.bincount(search.nodes().depth).tolist() == [1, 3, 6, 12]
    assert lengths == {(0, 5), (1, 5), (2, 0)}
    search = ap.Search(1, 10**4, rule="treepo", trajectories=6, first_low=2, first_high=2, depth=4)
    while leaves := search.select(64):
        search.expand(leaves, values=[0.0] * len(leaves), children=leaves.want)
    assert np.bincount(search.nodes().depth).tolist() == [1, 2, 4, 6, 6]
    search = ap.Search(1, 10**4, rule="tree_ps_rag", width=3, depth=2)
    leaves = search.select(64)
    search.expand(leaves, values=[0.0], keys=[[7, 7, 9]])
    assert search.select(64).action.tolist() == [0, 2], "the equal sibling is pruned"


@pytest.mark.parametrize(
    ("similarity", "kept"), [(0.8, [0, 2, 3, 5, 6]), (0.5, [0, 3, 5, 6]), (1.0, list(range(8)))]
)
def test_tree_ps_rag_prunes_siblings_of_nearly_the_same_tokens(
    similarity: float, kept: list[int]
) -> None:
    tokens = [
        list(range(10)),
        [*range(10), 3, 3, 20],  # 10 of 11 with the first
        list(range(8)),  # 8 of 10: not above 0.8
        [50, 51],
        [*range(9), 9, 9],  # the first again
        [],
        [],  # without tokens all are different
        [51, 50, 51],
    ]
    search = ap.Search(1, 100, rule="tree_ps_rag", width=8, depth=2, similarity=similarity)
    search.expand(search.select(1), values=[0.0], tokens=[tokens])
    assert search.select(64).action.tolist() == kept
    search = ap.Search(1, 100, rule="tree_ps_rag", width=8, depth=2, similarity=similarity)
    search.expand(search.select(1), values=[0.0], tokens=[tokens], keys=[[1, 2, 1, *range(3, 8)]])
    assert search.select(64).action.tolist() == [0, 1, 3, 4, 5, 6, 7], "keys are taken instead"
    search = ap.Search(1, 100, rule="tree_ps_rag", width=2, depth=2)
    ends = {"child_values": [[1.0, 0.0]], "child_terminal": [[True, True]]}
    search.expand(search.select(1), values=[0.0], tokens=[[[1], [1]]], **ends)
    assert search.nodes().visits.tolist() == [2, 1, 1], "ends are leaves"


@pytest.mark.parametrize(
    "rule, answer, missing",
    [
        ("omegaprm", {"values": [0.5]}, "rollouts"),
        ("rearter", {"rollouts": [[1.0]]}, "rollout_tokens"),
        ("treerl", {"rollouts": [[1.0]], "rollout_tokens": [[[1]]]}, "rollout_log_probs"),
        ("beam", {"values": [0.0], "children": 2}, "child_values"),
        ("dpo_beam", {"values": [0.0], "children": 2}, "priors"),
        ("llm_reasoners", {"values": [0.0], "children": 2}, "child_values"),
    ],
)
def test_missing_columns_are_named(rule: str, answer: dict[str, Any], missing: str) -> None:
    search = ap.Search(1, 100, rule=rule)
    leaves = search.select(1)
    with pytest.raises(ap.InputError, match=rf"{missing}\[0\]: got nothing"):
        search.expand(leaves, **answer)
    assert search.in_flight == 1, "nothing is changed"


def test_a_huge_weight_of_priors_ends_no_search() -> None:
    search = ap.Search(1, 999, num_simulations=40, c_puct=1e308)
    while leaves := search.select(2):
        search.expand(leaves, values=[0.0] * len(leaves), priors=[[0.0] * 9 + [1.0]] * len(leaves))
    assert search.simulations[0] == 40


def test_gumbel_recommends_an_end_that_was_closed_after_one_visit() -> None:
    search = ap.Search(1, 99, rule="gumbel", num_simulations=12, close_terminal=True)
    while leaves := search.select(1):
        right = (leaves.depth == 1) & (leaves.action == 2)
        children = {"terminal": right} if right.any() else {"children": 4}
        search.expand(leaves, values=np.where(right, 1.0, -1.0), **children)
    nodes, (action, policy) = search.nodes(), search.policy()
    assert nodes.visits[3] == 1 and nodes.closed[3] and nodes.visits[1:5].max() > 1
    assert action[0] == policy[0].argmax() == 2


def test_wrong_input_is_named() -> None:
    for call, message in [
        (lambda: ap.Search(1, 9, rule="beam", n=0), "n: got 0, expected an integer from 1 to"),
        (lambda: ap.Search(1, 9, rule="dvts", n=10**12), "n: got 10{12}, expected an integer"),
        (lambda: ap.Search(1, 9, rule="tree_grpo", expansions=2**16), "expansions: got 65536"),
        (lambda: ap.Search(1, 9, rule="beam", n=2), "width: got 4, expected at most n=2"),
        (lambda: ap.Search(1, 9, rule="spo_tree", widths=[6, -1]), r"widths: got \[6, -1\]"),
        (lambda: ap.Search(1, 9, rule="no_such"), "rule"),
        (lambda: ap.Search(1, 9, rule="prorag", merge=True), "merge: got True, expected False"),
        (lambda: ap.Search(1, 9, rule="omegaprm", compat="mine"), "compat"),
        (lambda: rules.rule_scores("beam", visits=[1], value_sums=[1.0]), "beam"),
        (lambda: rules.rule_scores("uct", visits=[-1], value_sums=[1.0]), r"visits\[0\]"),
        (lambda: rules.sibling_rewards([3.0], [1]), r"value_sums\[0\]: got mean 3"),
        (lambda: rules.sibling_rewards([1.0], [1, 2]), "visits: got 2"),
        (lambda: rules.reward_labels([-1, 5], []), r"parents\[1\]: got 5"),
        (lambda: rules.reward_labels([-1, 0], [2]), r"correct\[0\]: got 2"),
        (lambda: rules.rule_scores("uct", visits=[1], value_sums=[np.inf]), r"value_sums\[0\]"),
        (lambda: rules.rule_scores("uct", visits=[1] * 2**16, value_sums=[1.0] * 2**16), "65535"),
        (lambda: rules.pool_scores([2.0], [1], [0], [0]), r"mc\[0\]: got"),
        (lambda: rules.pool_scores([0.5], [1], [0], [0], alpha=-1), "alpha: got -1, expected"),
        (lambda: rules.pool_scores([0.5], [1], [0], [0], length_scale=np.nan), "length_scale: got"),
        (lambda: rules.rollout_value([1.0, np.nan], 1.0), r"step_scores\[1\]: got"),
        (lambda: rules.considered_visits(4, 2**62), "simulations: got"),
        (lambda: rules.lookahead_value([]), "values: got none"),
    ]:
        with pytest.raises((ap.InputError, ap.OptionError), match=message):
            call()


def test_labels_at_their_limits() -> None:
    rewards, dropped = rules.sibling_rewards([2.0, 3.0], [2, 3])
    assert rewards.tolist() == [1.0, 1.0] and dropped
    assert rules.sibling_rewards([], [])[1]
    assert rules.rollout_value([], -1.0) == -1.0
    assert rules.rollout_value([1.0], 1.0, overwrite_last=False) == 2.0
    hard, steps, values = rules.reward_labels([-1, 0, 1], [])
    assert not hard.any() and not steps.any() and not values.any()
    assert rules.lookahead_value([0.3]) == 0.3


def test_a_pool_without_a_mixed_root_ends() -> None:
    for rule, rewards in [("omegaprm", [1.0] * 8), ("rearter", [0.0] * 5)]:
        search = ap.Search(1, 100, rule=rule)
        leaves = search.select(4)
        runs = [[1, 2, 3]] * len(rewards)
        search.expand(leaves, rollouts=[rewards], rollout_tokens=[runs])
        assert not search.select(4) and search.bisections(0) == []


@pytest.mark.parametrize("rule", ["omegaprm", "rearter", "confidence"])
def test_pools_have_variances(rule: str) -> None:
    """Those of the shares of right rollouts; a pool with a wide interval is not done."""
    search = ap.Search(1, 1000, rule=rule, stop_width=0.05)
    leaves = search.select(1)
    rewards = [float(i % 3 == 0) for i in range(leaves.want[0])]
    search.expand(leaves, rollouts=[rewards], rollout_tokens=[[[1, 2, 3, 4]] * len(rewards)])
    assert search.nodes().variance[0] == pytest.approx(np.var(rewards, ddof=1))
    assert len(search.select(1)) == 1


def answer(leaves: ap.Leaves) -> dict[str, Any]:
    """An answer with every column that any rule may need, the same for the same request."""
    out: dict[str, Any] = {name: [] for name in ("values", "priors", "child_values", "terminal")}
    out |= {"rollouts": [], "rollout_tokens": [], "rollout_log_probs": [], "tokens": []}
    for tree, node, kind, want in zip(
        leaves.tree, leaves.node, leaves.kind, leaves.want, strict=True
    ):
        draw = np.random.default_rng([tree, node, kind])
        runs = KINDS[kind] in ("rollout", "probe")
        width, count = (0, int(want)) if runs else (int(want) or 3, 0)
        lengths = draw.integers(2, 20, count)
        out["values"].append(float(draw.uniform()))
        out["terminal"].append(bool(not runs and node and draw.uniform() < 0.1))
        out["priors"].append(draw.uniform(0.1, 1, width))
        out["child_values"].append(draw.uniform(size=width))
        out["tokens"].append([draw.integers(0, 9, 2) for _ in range(width)])
        out["rollouts"].append(draw.integers(0, 2, count).astype(float))
        out["rollout_tokens"].append([draw.integers(0, 9, n) for n in lengths])
        out["rollout_log_probs"].append([-draw.uniform(0.1, 3, n) for n in lengths])
    return out


def state(search: ap.Search) -> list[Any]:
    nodes, rollouts = search.nodes(), search.rollouts()
    ends = [search.finals(tree).tolist() for tree in range(search.num_roots)]
    pools = [search.bisections(tree) for tree in range(search.num_roots)]
    columns = (nodes.parent, nodes.visits, nodes.value_sum, rollouts.node, rollouts.mark)
    return [*(column.tolist() for column in columns), ends, pools]


@by_rule
def test_resumed_in_the_middle(card: RuleCard, tmp_path: Path) -> None:
    """A rule keeps nothing beside its tree: a resumed search ends as an unbroken one."""

    def started() -> ap.Search:
        return ap.Search(2, 400, rule=card.name, num_simulations=12, max_depth=6, seed=5)

    whole, rounds = started(), 0
    while leaves := whole.select(4):
        whole.expand(leaves, **answer(leaves))
        rounds += 1
    assert rounds > 1
    broken = started()
    broken.log_to(tmp_path)
    for _ in range(rounds // 2):
        leaves = broken.select(4)
        broken.expand(leaves, **answer(leaves))
    broken.select(4)
    broken.close()
    resumed = ap.Search.resume(tmp_path)
    while leaves := resumed.select(4):
        resumed.expand(leaves, **answer(leaves))
    assert state(resumed) == state(whole)
