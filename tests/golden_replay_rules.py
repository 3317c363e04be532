"""The table from folders of cases of search rules to calls of the public API.

Merged into `REPLAY` of `golden_replay.py`. Evaluators read the case's script and check, at
every request, that the search asks for what the script says comes next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import apportion as ap
from apportion.search import rules
from apportion.search.data import KINDS
from golden_replay_beams import BEAM_REPLAY
from golden_replay_pools import POOL_REPLAY

Case = dict[str, Any]
Outputs = dict[str, Any]


def hyper(case: Case, name: str, default: Any = None) -> Any:
    value = case["meta"].get("hyperparameters", {}).get(name, default)
    return default if value is None else value


class Script:
    """A search of one tree whose answers are given in order; one leaf at a time."""

    def __init__(self, search: ap.Search) -> None:
        self.search = search
        self.names: dict[int, Any] = {}  # what each node is called in the case

    def leaf(self) -> ap.Leaves:
        leaves = self.search.select(1)
        assert len(leaves) == 1, "the search ends before the script"
        return leaves

    def kind(self, leaves: ap.Leaves) -> str:
        return KINDS[leaves.kind[0]]

    def children(self, node: int) -> list[int]:
        nodes = self.search.nodes()
        first = nodes.first_child[node]
        return list(range(first, first + nodes.children[node]))


def nested(case: Case) -> dict[int, list[int]]:
    """Children of each node, by the case's parents."""
    below: dict[int, list[int]] = {}
    for node, parent in enumerate(case["inputs"]["parents"]):
        below.setdefault(parent, []).append(node)
    return below


def scripted(rule: str, c: str, unvisited: float) -> Callable[[Case], Outputs]:
    """AlphaMath and rStar-Math: expansions with their values, ends among the children."""

    def replay(case: Case) -> Outputs:
        steps, below = case["inputs"]["script"], nested(case)
        search = ap.Search(1, 10**6, rule=rule, **{c: hyper(case, "c_puct")})
        script = Script(search)
        script.names[0] = 0
        for step in steps:
            leaf = script.leaf()
            node = step["path"][-1]
            assert script.names[int(leaf.node[0])] == node, (step, leaf.node)
            count = len(below[node])
            ends = dict(step["terminal_children"])
            search.expand(
                leaf,
                values=[step["value"]],
                children=count,
                priors=None if step["priors"] is None else [step["priors"]],
                child_values=[[ends.get(i, 0.0) for i in range(count)]],
                child_terminal=[[i in ends for i in range(count)]],
            )
            ours = script.children(int(leaf.node[0]))
            script.names.update(zip(ours, below[node], strict=True))
        return scripted_outputs(script, case, unvisited)

    return replay


def scripted_outputs(script: Script, case: Case, unvisited: float) -> Outputs:
    nodes = script.search.nodes()
    place = {theirs: ours for ours, theirs in script.names.items()}
    rows = np.array([place[i] for i in range(len(place))])
    puct: list[float | None] = [None] * len(rows)
    for theirs, below in nested(case).items():
        if theirs >= 0:
            scores = script.search.child_values(0, place[theirs], how="score")
            for child, score in zip(below, scores, strict=True):
                puct[child] = score
    asked = {step["path"][-1] for step in case["inputs"]["script"]}
    visited = [i in asked or bool(nodes.terminal[r]) for i, r in enumerate(rows)]
    return {
        "visits": nodes.visits[rows],
        "q": nodes.q[rows],
        "puct": np.array(puct, dtype=np.float64),
        "first_value": np.where(visited, nodes.raw_value[rows], unvisited),
    }


def prorag(case: Case) -> Outputs:
    backups, want = case["inputs"]["backups"], case["outputs"]["tree"]

    def theirs(path: tuple[int, ...]) -> dict[str, Any]:
        node = want
        for action in path:
            node = node["ch"][action]
        return node

    # The first time that a child of a node is backed up, the node has just been expanded.
    first: dict[tuple[int, ...], int] = {}
    for backup in backups:
        if backup["path"]:
            first.setdefault(tuple(backup["path"][:-1]), backup["path"][-1])
    search = ap.Search(
        1,
        10**6,
        rule="prorag",
        num_simulations=len(backups),
        max_depth=hyper(case, "max_depth"),
        gamma=hyper(case, "gamma"),
        c_puct=hyper(case, "c_puct"),
        picks=list(first.values()),
    )
    names: dict[int, tuple[int, ...]] = {0: ()}
    while leaves := search.select(1):
        node, nodes = int(leaves.node[0]), search.nodes()
        backup, here = backups[int(nodes.visits[0])], names[int(leaves.node[0])]
        path, below = tuple(backup["path"]), theirs(here)["ch"]
        value = [backup["reward"]]
        if leaves.kind[0] == KINDS.index("rollout"):
            assert path == here, (path, here)
            search.expand(leaves, values=value)
        elif below:
            assert path[:-1] == here, (path, here)
            search.expand(leaves, values=[0.0], children=len(below))
            start = search.nodes().first_child[node]
            names.update({int(start + i): (*here, i) for i in range(len(below))})
        else:
            assert path == here, (path, here)
            search.expand(leaves, values=value, terminal=[theirs(here)["terminal"]])
    return {"tree": lambda want: prorag_tree(search, names, want)}


def prorag_tree(search: ap.Search, names: dict[int, tuple[int, ...]], want: dict[str, Any]) -> bool:
    nodes = search.nodes()
    place = {path: node for node, path in names.items()}

    def same(path: tuple[int, ...], want: dict[str, Any]) -> bool:
        node = place[path]
        value = nodes.value[node] * nodes.visits[node]
        return (
            nodes.visits[node] == want["n"]
            and bool(np.isclose(value, want["q"], rtol=1e-9, atol=1e-12))
            and nodes.children[node] == len(want["ch"])
            and all(same((*path, i), child) for i, child in enumerate(want["ch"]))
        )

    return same((), want)


def rest_mcts(case: Case) -> Outputs:
    below = {
        step["path"][-1]: nested(case).get(step["path"][-1], [])
        for step in case["inputs"]["script"]
    }
    search = ap.Search(
        1,
        10**6,
        rule="rest_mcts",
        c=hyper(case, "exploration_constant"),
        alpha=hyper(case, "alpha"),
        first_play=hyper(case, "inf"),
    )
    # Of equal scores the reference takes any; ours takes the first told, so children are
    # told in the order in which the script first goes there.
    firsts: dict[int, int] = {}
    for i, step in enumerate(case["inputs"]["script"]):
        for node in [*step["path"], step["rollout_child"]]:
            firsts.setdefault(node, i)
    script = Script(search)
    script.names[0] = 0
    for step in case["inputs"]["script"]:
        leaf = script.leaf()
        node = step["path"][-1]
        assert script.names[int(leaf.node[0])] == node, (step, leaf.node)
        values = dict(zip(below[node], step["child_values"], strict=True))
        order = sorted(below[node], key=lambda n: firsts.get(n, 10**9))
        search.expand(leaf, values=[0.0], child_values=[[values[n] for n in order]])
        script.names.update(zip(script.children(int(leaf.node[0])), order, strict=True))
        leaf = script.leaf()
        assert script.names[int(leaf.node[0])] == step["rollout_child"]
        search.expand(leaf, values=[step["rollout_best_v"]])
    nodes = search.nodes()
    place = {theirs: ours for ours, theirs in script.names.items()}
    rows = np.array([place[i] for i in range(len(place))])
    hard, steps, values = rules.reward_labels(
        case["inputs"]["parents"], case["inputs"]["correct_leaves"]
    )
    return {
        "V": np.where(nodes.visits[rows] > 0, nodes.q[rows], nodes.raw_value[rows]),
        "visits": nodes.visits[rows],
        "min_steps_to_correct": steps,
        "hard": hard,
        "value_label": values,
    }


def llm_reasoners(case: Case) -> Outputs:
    inputs = case["inputs"]
    search = ap.Search(
        1,
        10**6,
        rule="llm_reasoners",
        num_simulations=hyper(case, "n_iters"),
        max_depth=hyper(case, "depth_limit"),
        w_exp=hyper(case, "w_exp"),
    )
    states, asked = {0: inputs["root_state"]}, {0}

    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        rewards, quick = [], []
        for node, parent, action in zip(leaves.node, leaves.parent, leaves.action, strict=True):
            reward = 0.0
            if parent >= 0:
                before = states[int(parent)]
                reward = inputs["reward"][before][action]
                states[int(node)] = inputs["next_state"][before][action]
            asked.add(int(node))
            rewards.append(reward)
            quick.append(inputs["fast_reward"][states[int(node)]])
        return {"values": np.zeros(len(leaves)), "rewards": rewards, "child_values": quick}

    search.run(evaluate, batch_size=1)
    nodes = search.nodes()
    end = search.finals(0)
    path = path_of(nodes, int(end[0]))
    actions = [int(n - nodes.first_child[nodes.parent[n]]) for n in path[1:]]

    def same(node: int, want: dict[str, Any]) -> bool:
        visited = nodes.visits[node] > 0
        q = nodes.q[node] if visited else nodes.raw_value[node]
        seen = node in asked
        reward = nodes.reward[node] if visited else nodes.raw_value[node]
        first = nodes.first_child[node]
        below = range(first, first + nodes.children[node])
        return (
            nodes.visits[node] == want["visits"]
            and bool(np.isclose(q, want["Q"], rtol=1e-9))
            and bool(np.isclose(reward, want["reward"], rtol=1e-9))
            and seen == want["visited"]
            and len(below) == len(want["ch"])
            and all(same(n, child) for n, child in zip(below, want["ch"], strict=True))
        )

    return {
        "tree": lambda want: same(0, want),
        "cum_reward": sum(nodes.reward[n] for n in path),
        "trace_actions": actions,
    }


def path_of(nodes: ap.Nodes, node: int) -> list[int]:
    path = [node]
    while nodes.parent[path[-1]] >= 0:
        path.append(int(nodes.parent[path[-1]]))
    return path[::-1]


def propa(case: Case) -> Outputs:
    ucb, rewards, dropped = [], [], []
    for row in case["inputs"]["rows"]:
        visits, sums = row["child_visits"], row["child_values"]
        c = hyper(case, "exploration_weight")
        parent = row["parent_visits"]
        ucb.append(
            rules.rule_scores("propa", visits=visits, value_sums=sums, parent_visits=parent, c=c)
        )
        found = rules.sibling_rewards(
            sums, visits, boost=hyper(case, "a"), min_spread=hyper(case, "min_spread")
        )
        rewards.append(found[0])
        dropped.append(found[1])

    def rows_agree(want: list[dict[str, Any]]) -> bool:
        return all(
            np.allclose(np.array(row["ucb"], dtype=float), ucb[i], rtol=1e-9)
            and np.allclose(row["grpo_rewards"], rewards[i], rtol=1e-9, atol=1e-12)
            and row["dropped"] == dropped[i]
            for i, row in enumerate(want)
        )

    return {"rows": rows_agree}


def groundedprm(case: Case) -> Outputs:
    """A chain down to the expanded node, then its rollout. Those of the nodes above, which
    the case has not, are worth 0, and their visits are taken off."""
    found = []
    for row in case["inputs"]["rows"]:
        search = ap.Search(1, 100, rule="groundedprm", decay=hyper(case, "delay"))
        depth = row["depth_of_expanded"]
        script = Script(search)
        leaf = script.leaf()
        for _ in range(depth):
            search.expand(leaf, values=[0.0], children=1)
            leaf = script.leaf()
            assert script.kind(leaf) == "rollout"
            if leaf.depth[0] < depth:
                search.expand(leaf, values=[0.0])
                leaf = script.leaf()
        value = rules.rollout_value(row["step_scores"], row["final"])
        search.expand(leaf, values=[value])
        nodes = search.nodes()
        from_below = np.maximum(depth - 1 - nodes.depth, 0)
        found.append((nodes.value_sum, nodes.visits - from_below))

    def same(want: list[dict[str, Any]]) -> bool:
        return all(
            np.allclose(row["values_root_to_expanded"], sums, rtol=1e-9, atol=1e-12)
            and row["visits"] == visits.tolist()
            for row, (sums, visits) in zip(want, found, strict=True)
        )

    return {"rows": same}


def rearter_lookahead(case: Case) -> Outputs:
    options = {"alpha": hyper(case, "alpha"), "min_gain": hyper(case, "stop_threshold")}
    rows = case["inputs"]["values"]
    return {"value0": [rules.lookahead_value(row, **options) for row in rows]}


RULES_REPLAY: dict[str, Callable[[Case], Outputs]] = {
    "tree_alphamath": scripted("alphamath", "c_puct", -100.0),
    "tree_rstar_math": scripted("rstar_math", "c", 0.0),
    "tree_prorag_mcts": prorag,
    "tree_rest_mcts_star": rest_mcts,
    "tree_llm_reasoners_mcts": llm_reasoners,
    "tree_propa": propa,
    "tree_groundedprm": groundedprm,
    "rearter": rearter_lookahead,
    **POOL_REPLAY,
    **BEAM_REPLAY,
}
