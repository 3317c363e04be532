"""The table from folders of credit read from trees to calls of the public API.

Merged into `REPLAY` of `golden_replay.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import apportion as ap
from apportion import tree_credit
from golden_replay_tree import Case, Outputs, hyper


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


READOUTS: dict[str, Callable[[Case], Outputs]] = {
    "spo_tree": spo,
    "tree_grpo": tree_grpo,
    "tree_grpo_diff": tree_grpo_diff,
    "tree_treepo": treepo,
    "treerl": treerl,
    "vineppo": vineppo,
}
