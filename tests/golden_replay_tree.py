"""The table from folders of searches to calls of the public API.

Merged into `REPLAY` of `golden_replay.py`. Evaluators are look-ups in the case's tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import apportion as ap

Case = dict[str, Any]
Outputs = dict[str, Any]


def hyper(case: Case, name: str, default: Any = None) -> Any:
    value = case["meta"].get("hyperparameters", {}).get(name, default)
    return default if value is None else value


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


class Table:
    """A Markov decision process given as tables, walked by a search."""

    def __init__(self, case: Case, search: ap.Search) -> None:
        inputs = case["inputs"]
        self.next_state = np.array(inputs["next_state"])
        self.logits = np.array(inputs["prior_logits"])
        self.value = np.array(inputs["value"])
        self.reward = np.array(inputs["reward"])
        self.roots = inputs["root_states"]
        self.width = self.logits.shape[1]
        invalid = inputs.get("invalid_actions") or np.zeros((len(self.roots), self.width))
        self.invalid = np.array(invalid, dtype=bool)
        self.search = search
        self.order: list[list[int]] = [[] for _ in self.roots]  # nodes as they were expanded
        self.state: list[dict[int, int]] = [{} for _ in self.roots]

    def evaluate(self, leaves: ap.Leaves) -> dict[str, Any]:
        values, priors, rewards, masked = [], [], [], []
        rows = zip(leaves.tree, leaves.node, leaves.parent, leaves.action, strict=True)
        for tree, node, parent, action in rows:
            reward, state = 0.0, self.roots[tree]
            if parent >= 0:
                before = self.state[tree][parent]
                reward, state = self.reward[before, action], self.next_state[before, action]
            self.state[tree][node] = state
            self.order[tree].append(node)
            values.append(self.value[state])
            rewards.append(reward)
            masked.append(self.invalid[tree] & (node == 0))
            logits = np.where(masked[-1], -np.inf, self.logits[state])
            priors.append(softmax(logits))
        return {"values": values, "priors": priors, "rewards": rewards, "masked": masked}


def mctx(rule: str, **names: str) -> Callable[[Case], Outputs]:
    """A batch of mctx searches; node arrays are in the order of expansion, as there."""

    def replay(case: Case) -> Outputs:
        inputs = case["inputs"]
        options = {ours: hyper(case, theirs) for ours, theirs in names.items()}
        options = {name: value for name, value in options.items() if value is not None}
        if "root_gumbel" in inputs:
            options["gumbels"] = np.array(inputs["root_gumbel"]).reshape(-1).tolist()
        search = ap.Search(
            len(inputs["root_states"]),
            10**6,
            rule=rule,
            num_simulations=inputs["num_simulations"],
            max_depth=inputs.get("max_depth"),
            gamma=inputs["discount"],
            **options,
        )
        table = Table(case, search)
        search.run(table.evaluate, per_tree=1)
        return mctx_arrays(table, inputs["num_simulations"] + 1)

    return replay


def mctx_arrays(table: Table, size: int) -> Outputs:
    nodes, (actions, shares) = table.search.nodes(), table.search.policy()
    count, width = len(table.roots), table.width
    shape, wide, first = (count, size), (count, size, width), (count, 8, width)
    out = {
        "action": actions,
        "action_weights": np.array(shares),
        "parents": np.full(shape, -1),
        "action_from_parent": np.full(shape, -1),
        "children_index": np.full(wide, -1),
        "children_visits": np.zeros(wide),
        "children_values": np.zeros(wide),
        "embeddings": np.zeros(shape, dtype=int),
        "node_visits": np.zeros(shape),
        "node_values": np.zeros(shape),
        "raw_values": np.zeros(shape),
        "root_qvalues": np.zeros((count, width)),
    }
    transforms = {
        "qtransform_by_parent_and_siblings_first8nodes": "scaled",
        "qtransform_completed_by_mix_value_first8nodes": "completed",
        "qtransform_by_min_max_0_1_first8nodes": "mean",
    }
    out.update({name: np.zeros(first) for name in transforms})
    for t, order in enumerate(table.order):
        rows = nodes.offsets[t] + np.array(order)
        place = {node: i for i, node in enumerate(order)}
        out["node_visits"][t, : len(order)] = nodes.visits[rows]
        out["node_values"][t, : len(order)] = nodes.value[rows]
        out["raw_values"][t, : len(order)] = nodes.raw_value[rows]
        out["embeddings"][t, : len(order)] = [table.state[t][node] for node in order]
        for i, (node, row) in enumerate(zip(order, rows, strict=True)):
            for action in range(nodes.children[row]):
                below = nodes.first_child[row] + action
                at = nodes.offsets[t] + below
                if below in place:
                    j = place[below]
                    out["parents"][t, j], out["action_from_parent"][t, j] = i, action
                    out["children_index"][t, i, action] = j
                out["children_visits"][t, i, action] = nodes.visits[at]
                out["children_values"][t, i, action] = nodes.value[at]
                if i == 0:
                    out["root_qvalues"][t, action] = nodes.q[at]
            if i < 8:
                for name, how in transforms.items():
                    out[name][t, i] = table.search.child_values(t, node, how=how)
    return out


def lightzero(case: Case) -> Outputs:
    roots = len(case["inputs"]["root_states"])
    search = ap.Search(
        roots,
        10**6,
        rule="lightzero",
        num_simulations=case["meta"]["shapes"]["sims"],
        gamma=hyper(case, "discount"),
        root_visit="zero",
        c_init=hyper(case, "pb_c_init"),
        c_base=hyper(case, "pb_c_base"),
        min_range=hyper(case, "value_delta_max"),
    )
    table = Table(case, search)
    asked: list[ap.Leaves] = []

    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        asked.append(leaves)
        return table.evaluate(leaves)

    search.run(evaluate, per_tree=1)
    place = [{node: i for i, node in enumerate(order)} for order in table.order]
    sims = []
    for leaves in asked[1:]:
        parents = zip(leaves.tree, leaves.parent, strict=True)
        sims.append(
            {
                "parent_sim": [place[t][parent] for t, parent in parents],
                "last_action": leaves.action.tolist(),
                "leaf_depth": leaves.depth.tolist(),
            }
        )
    nodes = search.nodes()
    visits, best = [], []
    for t, start in enumerate(nodes.offsets[:-1]):
        first = start + nodes.first_child[start]
        visits.append(nodes.visits[first : first + nodes.children[start]])
        best.append(last_path(asked, nodes, t))
    return {
        "per_sim": lambda want: want == sims,
        "root_visits": np.array(visits),
        "root_values": nodes.value[nodes.offsets[:-1]],
        "best_trajectories": lambda want: want == best,
    }


def last_path(asked: list[ap.Leaves], nodes: ap.Nodes, tree: int) -> list[int]:
    """From the root down the child that each node chose last."""
    latest: dict[int, int] = {}
    for leaves in asked:
        path = next(path for t, path in leaves.paths() if t == tree)
        latest.update(itertools.pairwise(path.tolist()))
    actions, node = [], 0
    while node in latest:
        actions.append(int(latest[node] - nodes.first_child[nodes.offsets[tree] + node]))
        node = latest[node]
    return actions


LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


class TicTacToe:
    """The game of the OpenSpiel cases, with their hashed values and priors."""

    def __init__(self) -> None:
        self.boards = {0: "." * 9}

    def moves(self, board: str) -> list[int]:
        return [i for i, mark in enumerate(board) if mark == "."]

    def evaluate(self, leaves: ap.Leaves) -> dict[str, Any]:
        values, priors, ends = [], [], []
        for node, parent, child in zip(leaves.node, leaves.parent, leaves.action, strict=True):
            if parent >= 0:
                before = self.boards[parent]
                at, mark = self.moves(before)[child], "xo"[(9 - before.count(".")) % 2]
                self.boards[node] = before[:at] + mark + before[at + 1 :]
            board = self.boards[node]
            lost = any(board[a] == board[b] == board[c] != "." for a, b, c in LINES)
            moves = self.moves(board)
            text = "\n".join(board[i : i + 3] for i in (0, 3, 6))
            total = sum((k + 1) * ord(ch) for k, ch in enumerate(text))
            value = ((total * 2654435761) & 1023) / 1023 * 2 - 1
            mover = 1 if len(moves) % 2 else -1
            ends.append(lost or not moves)
            values.append(-1.0 if lost else 0.0 if not moves else value * mover)
            weights = np.array([(a * 7 + 3) % 5 + 1 for a in moves], dtype=float)
            priors.append(weights / weights.sum() if moves else weights)
        return {"values": values, "priors": priors, "terminal": ends}


def openspiel(case: Case) -> Outputs:
    puct = hyper(case, "child_selection") == "puct"
    c = hyper(case, "uct_c")
    search = ap.Search(
        1,
        10**6,
        rule="puct" if puct else "uct",
        num_simulations=hyper(case, "max_simulations") - 1,
        gamma=-1,
        solve=1.0 if hyper(case, "solve") else None,
        proven_exact=True,
        **({"c_puct": c} if puct else {"c": c}),
    )
    game = TicTacToe()
    search.run(game.evaluate, batch_size=1)
    nodes = search.nodes()

    def same(row: int, want: dict[str, Any]) -> bool:
        if nodes.visits[row] != want["n"]:
            return False
        if not np.isclose(nodes.q[row] * nodes.visits[row], want["w"], rtol=1e-6, atol=1e-7):
            return False
        if not np.isclose(nodes.prior[row], want["p"], rtol=1e-6):
            return False
        if hyper(case, "solve") and (want["outcome"] is not None) != nodes.proven[row]:
            return False
        first, moves = nodes.first_child[row], game.moves(game.boards[row])
        rows = range(first, first + nodes.children[row])
        below = {moves[i]: r for i, r in enumerate(rows) if nodes.visits[r]}
        wanted = {child["a"]: child for child in want["ch"]}
        return below.keys() == wanted.keys() and all(same(r, wanted[a]) for a, r in below.items())

    return {"root": lambda want: same(0, want)}


def considered(case: Case) -> Outputs:
    from apportion.search.rules import considered_visits

    sequences = [
        considered_visits(one["max_num_considered_actions"], one["num_simulations"]).tolist()
        for one in case["inputs"]["cases"]
    ]
    return {"sequences": lambda want: want == sequences}


TREE_REPLAY: dict[str, Callable[[Case], Outputs]] = {
    "mctx_muzero": mctx("muzero", c_init="pb_c_init", c_base="pb_c_base"),
    "mctx_gumbel_muzero": mctx(
        "gumbel",
        max_considered="max_num_considered_actions",
        gumbel_scale="gumbel_scale",
        value_scale="value_scale",
        max_visit_init="maxvisit_init",
        rescale_values="rescale_values",
        use_mixed_value="use_mixed_value",
    ),
    "mctx_seq_halving": considered,
    "tree_lightzero_muzero": lightzero,
    "tree_openspiel_mcts": openspiel,
}
