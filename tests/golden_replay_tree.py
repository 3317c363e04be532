"""The table from folders of tree cases to calls of the public API.

Merged into `REPLAY` of `golden_replay.py`. Evaluators are look-ups in the case's tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import apportion as ap
from apportion import tree_credit

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


def tree_rollouts(case: Case, leaf: str, score: str) -> ap.Rollouts:
    """Nodes as rows, of a case that lists nodes."""
    nodes = case["inputs"]["nodes"]
    scores = [node[score] if node[leaf] else np.nan for node in nodes]
    return ap.Rollouts.from_tree(
        np.array([node["parent"] for node in nodes]), outcome_rewards=np.array(scores, dtype=float)
    )


def by_node(credit: ap.Credit, *names: str) -> list[np.ndarray]:
    return [(credit.extras.get(name) or credit.values[name])[1] for name in names]


def close(got: Any, want: Any, rtol: float = 1e-9) -> bool:
    return bool(np.allclose(np.array(got, float), np.array(want, float), rtol=rtol, atol=rtol / 10))


def spo(case: Case) -> Outputs:
    rollouts = tree_rollouts(case, "leaf", "reward")
    out: Outputs = {}
    for name, scale in (("rloo", False), ("grpo", True)):
        for drop in (False, True):
            credit = ap.credit(
                "spo",
                rollouts,
                scale=scale,
                eps=hyper(case, "eps"),
                best_of=hyper(case, "BoK_K"),
                drop_zero=drop,
            )
            fields = ("advantages", "best_of_gain", "node_values")
            rows = np.stack([np.arange(len(rollouts)), *by_node(credit, *fields)], axis=1)
            kept = by_node(credit, "loss_mask")[0] > 0 if drop else np.ones(len(rows), bool)
            kept[0] = False  # the root has no edge
            out[f"{name}_filter{int(drop)}"] = edges(rows[kept])
    return out


def edges(rows: np.ndarray) -> Callable[[Any], bool]:
    """Judges a list of edges. One that is 0 but for the reference's rounding, which takes
    1/2 for 1/2 - 6e-17, may be there or not: it is kept there, and exactly 0 here."""
    names = ("child", "advantage", "prover_advantage", "value")

    def judge(want: list[dict[str, Any]]) -> bool:
        listed = np.array([[edge[n] for n in names] for edge in want])
        rounded = (np.abs(listed[:, 1:3]) < 1e-12).all(1) & (listed[:, 1:3] != 0).any(1)
        listed = listed[~rounded | np.isin(listed[:, 0], rows[:, 0])]
        return len(listed) == len(rows) and close(rows, listed)

    return judge


def tree_grpo_diff(case: Case) -> Outputs:
    nodes = case["inputs"]["nodes"]
    parents = [node["parent"] for node in nodes]
    ends = np.array([node["response_len_cumulative"] for node in nodes])
    starts = np.array([0 if p < 0 else ends[p] for p in parents])
    offsets = np.cumsum([0, *(ends - starts)])
    mask = np.ones(offsets[-1], dtype=int)
    mask[offsets[1:][ends > starts] - 1] = 0  # a step's last token
    leaves = [n for n, node in enumerate(nodes) if node["is_leaf"]]
    for leaf in leaves:  # and the answer get 0
        mask[offsets[leaf] : offsets[leaf + 1]] = 0
    scores = np.array([node["leaf_score"] for node in nodes], dtype=float)
    rollouts = ap.Rollouts.from_tree(
        parents, token_offsets=offsets, mask=mask, outcome_rewards=scores
    )
    credit = ap.credit("tree_grpo", rollouts, mode="tree_diff", margin=hyper(case, "margin"))
    values, counts, final = by_node(credit, "node_values", "leaf_counts", "advantages")

    def same_tokens(want: list[list[float]]) -> bool:
        rows = []
        for leaf in leaves:
            path = [leaf]
            while parents[path[-1]] >= 0:
                path.append(parents[path[-1]])
            own = [credit.advantages[offsets[n] : offsets[n + 1]] for n in reversed(path)]
            rows.append(np.concatenate(own))
        return len(rows) == len(want) and all(
            len(a) == len(b) and close(a, b, 2e-5) for a, b in zip(rows, want, strict=True)
        )

    return {
        "subtree_leaf_score": values * counts,
        "final_score": final,
        "leaf_ids": leaves,
        "leaf_token_scores": same_tokens,
    }


def treerl(case: Case) -> Outputs:
    parents, splits, lengths, scores, points = [], [], [], [], []
    for chains in case["inputs"]["trees"]:
        first = len(parents)
        for chain in chains:
            branch = chain["parent_idx"]
            parents.append(-1 if branch is None else first + branch)
            splits.append(chain["split_idx"] or 0)
            lengths.append(chain["n_tokens"])
            scores.append(chain["score"])
        points.append([branch_points(chain, hyper(case, "N")) for chain in chains])
    tree = tree_credit.cut_chains(parents, splits, lengths)
    outcomes = np.full(len(tree.parents), np.nan)
    outcomes[tree.leaves] = scores
    rollouts = ap.Rollouts.from_tree(
        tree.parents, token_offsets=np.cumsum([0, *tree.lengths]), outcome_rewards=outcomes
    )
    credit = ap.credit(
        "treerl",
        rollouts,
        centre=hyper(case, "overall_norm_style"),
        weighted=hyper(case, "use_weighted_value"),
        state_value=hyper(case, "use_state_value_reward"),
    )
    sums, counts, passed = by_node(credit, "subtree_sums", "leaf_counts", "pass_rates")
    rewards, states = by_node(credit, "advantages", "state_values")

    def same(node: int, want: dict[str, Any]) -> bool:
        below = np.flatnonzero(tree.parents == node)
        return (
            want["len"] == tree.lengths[node]
            and want["terminals"] == counts[node]
            and want["terminal"] == (node in tree.leaves)
            and close(sums[node], want["acc"])
            and len(want["ch"]) == len(below)
            and all(same(n, child) for n, child in zip(below, want["ch"], strict=True))
        )

    def path(leaf: int) -> list[list[float]]:
        nodes = [leaf]
        while tree.parents[nodes[-1]] > 0:
            nodes.append(tree.parents[nodes[-1]])
        columns = (tree.lengths, rewards, states, passed)
        return [[float(column[n]) for column in columns] for n in reversed(nodes)]

    def same_paths(want: list[list[dict[str, float]]]) -> bool:
        names = ("n_tokens", "value", "state_value", "pass_ratio")
        given = [np.array([[step[name] for name in names] for step in steps]) for steps in want]
        left = [np.array(path(leaf)) for leaf in tree.leaves]
        for steps in given:  # the reference lists paths in an order of its own
            fits = [i for i, a in enumerate(left) if a.shape == steps.shape and close(a, steps)]
            if not fits:
                return False
            left.pop(fits[0])
        return not left

    return {
        "max_entropy_tokens": lambda want: want == points,
        "root_reward_raw": passed[0],
        "segment_tree": lambda want: same(0, want),
        "paths": same_paths,
    }


def branch_points(chain: dict[str, Any], count: int) -> list[int]:
    """Unmasked tokens of the lowest log-probability."""
    order = np.argsort(np.array(chain["log_probs"]), kind="stable")
    return [int(t) for t in order if not chain["mask"][t]][:count]


def vineppo(case: Case) -> Outputs:
    rows = case["inputs"]["rows"]
    steps = [len(row["step_rewards"]) for row in rows]
    values = [np.array(row["values"], dtype=float) for row in rows]
    rollouts = ap.Rollouts.from_ragged(
        np.cumsum([0, *steps]),
        turn_spans=[[(i, i + 1) for i in range(count)] for count in steps],
        turn_rewards=np.concatenate([row["step_rewards"] for row in rows]),
        turn_values=np.concatenate([row[:-1] for row in values]),
        final_values=np.array([row[-1] for row in values]),
    )
    credit = ap.credit("vineppo", rollouts)
    ends = np.cumsum(steps)[:-1]
    filled = np.split(by_node(credit, "values")[0], ends)

    def same(want: list[dict[str, list[float]]]) -> bool:
        got = zip(np.split(credit.turn_advantages, ends), filled, values, want, strict=True)
        return all(
            close(advantages, row["advantages"])
            and close([*before, np.nan_to_num(own[-1])], row["values_filled"])
            for advantages, before, own, row in got
        )

    return {"rows": same}


def tree_grpo(case: Case) -> Outputs:
    inputs = case["inputs"]
    rewards = np.array(inputs["token_level_rewards"])
    rollouts = ap.Rollouts.from_padded(
        np.array(inputs["eos_mask"]),
        group_ids=inputs["prompt_index"],
        tree_ids=inputs["tree_index"],
        token_rewards=rewards,
    )

    def run(mode: str) -> ap.Credit:
        return ap.credit("tree_grpo", rollouts, mode=mode, eps=hyper(case, "epsilon"))

    both = run("tree")
    modes = ("tree", "tree_2norm", "tree_inner", "tree_per_token")
    return {
        "inter_tree": both.to_padded("inter_tree"),
        "intra_tree": both.to_padded("intra_tree"),
        **{mode: run(mode).to_padded() for mode in modes},
    }


def treepo(case: Case) -> Outputs:
    inputs = case["inputs"]
    mask, size = np.array(inputs["response_mask"]), hyper(case, "segment_size")
    paths = [path.split("#") for path in inputs["paths"]]
    lengths = mask.sum(1).astype(int)
    spans = [
        [tuple(np.minimum([k * size, (k + 1) * size], length)) for k in range(len(path) - 1)]
        for path, length in zip(paths, lengths, strict=True)
    ]
    rollouts = ap.Rollouts.from_padded(
        mask,
        group_ids=[path[0] for path in paths],
        node_ids=[path[1:] for path in paths],
        token_rewards=np.array(inputs["token_level_rewards"]),
        turn_spans=spans,
    )
    out: Outputs = {}
    for combine in ("group_size", "average"):
        for drop in (False, True):
            credit = ap.credit("treepo", rollouts, combine=combine, drop_flat=drop)
            out[f"tree_rfpp_{combine}_rmnostd{int(drop)}"] = credit.to_padded()

    def segments(**options: Any) -> ap.Credit:
        return ap.credit("treepo", rollouts, form="segment", **options)

    progress = segments(against_prefixes=True)
    normed = segments(sibling_norm=True, whiten=False)
    return {
        **out,
        "tree_group_wise_reward": by_node(progress, "path_scores")[0],
        "segment_advantage": segments(whiten=False).turn_advantages,
        "segment_advantage_sibling_norm": normed.turn_advantages,
        "segment_advantage_eta0.9": segments(eta=0.9, whiten=False).turn_advantages,
        "tree_rfpp_progress": progress.to_padded(),
        "spo_style": normed.to_padded(),
    }


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
    "spo_tree": spo,
    "tree_grpo": tree_grpo,
    "tree_grpo_diff": tree_grpo_diff,
    "tree_treepo": treepo,
    "treerl": treerl,
    "vineppo": vineppo,
}
