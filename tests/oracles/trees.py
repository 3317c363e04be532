"""Credit from trees of rollouts, node by node.

A tree is `parents`, a list in which -1 is a root, and `scores`, of which only those of leaves
are read; NaN is a leaf without an outcome. Every function returns one number a node, 0 at
roots.
"""

import math
from collections.abc import Sequence

from oracles.common import masked_whiten, mean, variance

Parents = Sequence[int]
Scores = Sequence[float]


def children(parents: Parents, node: int) -> list[int]:
    """The nodes whose parent is `node`."""
    return [n for n, parent in enumerate(parents) if parent == node]


def path(parents: Parents, node: int) -> list[int]:
    """The nodes from the root to `node`, both included."""
    return [node] if parents[node] < 0 else [*path(parents, parents[node]), node]


def leaves(parents: Parents, scores: Scores, node: int) -> list[int]:
    """The leaves below `node` that have an outcome."""
    below = children(parents, node)
    if not below:
        return [] if math.isnan(scores[node]) else [node]
    return [leaf for child in below for leaf in leaves(parents, scores, child)]


def value(
    parents: Parents, scores: Scores, node: int, mode: str, visits: Sequence[float] = ()
) -> float:
    """The value of `node`: `"leaf"`, `"child"`, `"visit"` mean or `"max"`; NaN without leaves."""
    if not leaves(parents, scores, node):
        return math.nan
    if mode == "leaf":
        return mean([scores[leaf] for leaf in leaves(parents, scores, node)])
    below = children(parents, node)
    if not below:
        return scores[node]
    known = [
        (value(parents, scores, n, mode, visits), visits[n] if mode == "visit" else 1.0)
        for n in below
    ]
    known = [(v, w) for v, w in known if not math.isnan(v) and w > 0]
    if not known:
        return math.nan
    if mode == "max":
        return max(v for v, _ in known)
    return sum(v * w for v, w in known) / sum(w for _, w in known)


def values(
    parents: Parents, scores: Scores, mode: str, visits: Sequence[float] = ()
) -> list[float]:
    """The value of every node."""
    return [value(parents, scores, n, mode, visits) for n in range(len(parents))]


def known_children(parents: Parents, worth: Sequence[float], node: int) -> list[float]:
    """Values of the children of `node` that have one."""
    return [worth[n] for n in children(parents, node) if not math.isnan(worth[n])]


def tree_ps_rag(
    parents: Parents,
    scores: Scores,
    *,
    baseline: str = "global_local",
    mode: str = "leaf",
    per_leaf_root: bool = False,
    eps: float = 1e-6,
) -> list[float]:
    """`[V(n) - V(root)] + [V(n) - V(p)]`, or a value against its siblings."""
    worth, out = values(parents, scores, mode), [0.0] * len(parents)
    for n, p in enumerate(parents):
        if p < 0 or math.isnan(worth[n]):
            continue
        out[n] = worth[n] - worth[p]
        if baseline == "global_local":
            out[n] += worth[n] - worth[path(parents, n)[0]]
        if baseline == "sibling":
            siblings = known_children(parents, worth, p)
            gap = worth[n] - mean(siblings)
            out[n] = gap / (math.sqrt(variance(siblings, 0)) + eps)
        if per_leaf_root:
            out[n] /= math.sqrt(len(leaves(parents, scores, n)))
    return out


def spo(
    parents: Parents, scores: Scores, *, scale: bool, eps: float = 1e-8, k: int = 4
) -> tuple[list[float], list[float], list[float]]:
    """SPO-tree: advantages, what each adds to the best of `k`, values."""
    worth = values(parents, scores, "child")
    advantages, gains = [0.0] * len(parents), [0.0] * len(parents)
    for n, p in enumerate(parents):
        if p < 0 or math.isnan(worth[n]):
            continue
        advantages[n] = worth[n] - worth[p]
        if scale and advantages[n] != 0:
            advantages[n] /= math.sqrt(variance(known_children(parents, worth, p), 0)) + eps
        gains[n] = (1 - (1 - worth[n]) ** k) - (1 - (1 - worth[p]) ** k)
    return advantages, gains, worth


def tree_grpo_diff(parents: Parents, scores: Scores, *, margin: float = 0.1) -> list[float]:
    """`(V + max(V - V(p) - margin, 0)) / sqrt(leaves)`, `V` the mean of leaves."""
    worth, out = values(parents, scores, "leaf"), [0.0] * len(parents)
    for n, p in enumerate(parents):
        if p >= 0 and not math.isnan(worth[n]):
            bonus = max(worth[n] - worth[p] - margin, 0.0)
            out[n] = (worth[n] + bonus) / math.sqrt(len(leaves(parents, scores, n)))
    return out


def treerl(
    parents: Parents,
    scores: Scores,
    lengths: Sequence[int],
    *,
    centre: str = "token",
    weighted: bool = True,
    state_value: bool = True,
) -> tuple[list[float], list[float], list[float]]:
    """TreeRL: rewards of steps, subtree sums, state values. `lengths` are tokens of nodes."""
    rewards, sums, states = ([0.0] * len(parents) for _ in range(3))
    for root in [n for n, p in enumerate(parents) if p < 0]:
        own = [n for n in range(len(parents)) if path(parents, n)[0] == root]
        ends = leaves(parents, scores, root)
        centred = {}
        for leaf in ends:
            others = [scores[other] for other in ends if other != leaf]
            centred[leaf] = scores[leaf] - (sum(others) / len(others) if others else 0.0)
        for n in own:
            sums[n] = sum(centred[leaf] for leaf in leaves(parents, scores, n))
        weight = {"token": lambda n: lengths[n], "step": lambda n: 1, "none": lambda n: 0}[centre]
        visited = sum(weight(n) for leaf in ends for n in path(parents, leaf))
        total = sum(sums[n] * weight(n) for n in own)
        for n in own:
            count = len(leaves(parents, scores, n))
            if count == 0:
                continue
            if visited:
                sums[n] -= total / visited * count
            if weighted:
                sums[n] /= math.sqrt(count)
            states[n] = sums[n] / count
        differences = dict.fromkeys(own, 0.0)
        for n in own:
            p = parents[n]
            if p < 0 or not leaves(parents, scores, n):
                continue
            differences[n] = states[n] - states[p]
            if abs(differences[n]) < 1e-8 and parents[p] >= 0:
                differences[n] = differences[p]
            rewards[n] = differences[n] + (states[n] if state_value else 0.0)
    return rewards, sums, states


def treepo_path_scores(
    parents: Parents, scores: Scores, *, combine: str = "average", drop_flat: bool = False
) -> dict[int, float]:
    """TreePO: by leaf, the outcome against all groups that share a prefix."""
    out = {}
    for leaf in range(len(parents)):
        if children(parents, leaf) or math.isnan(scores[leaf]):
            continue
        parts: list[tuple[float, int]] = []
        for n in path(parents, leaf):
            group = [scores[other] for other in leaves(parents, scores, n)]
            if parents[n] < 0:
                centre = mean(group) if len(group) > 1 else 0.0
                parts.append((scores[leaf] - centre, len(group)))
            elif len(group) > 1 and not (drop_flat and max(group) == min(group)):
                parts.append((scores[leaf] - mean(group), len(group)))
        weights = [size if combine == "group_size" else 1 for _, size in parts]
        gaps = [gap for gap, _ in parts]
        out[leaf] = sum(g * w for g, w in zip(gaps, weights, strict=True)) / sum(weights)
    return out


def against_prefixes(parents: Parents, scores: Scores) -> dict[int, float]:
    """TreePO: by leaf, the outcome against the root, all nodes of its path and itself."""
    out = {}
    for leaf in range(len(parents)):
        if children(parents, leaf) or math.isnan(scores[leaf]):
            continue
        groups = [[scores[o] for o in leaves(parents, scores, n)] for n in path(parents, leaf)]
        total = sum((scores[leaf] - mean(group)) * len(group) for group in groups)
        out[leaf] = total / sum(len(group) for group in groups)
    return out


def treepo_segments(
    parents: Parents, scores: Scores, *, eta: float | None = None, sibling_norm: bool = False
) -> dict[int, list[float]]:
    """TreePO: by leaf, the advantage of each node of its path below the root, whose value is 0."""
    worth = values(parents, scores, "child")
    shown = list(worth)
    if sibling_norm:
        for n, p in enumerate(parents):
            siblings = known_children(parents, worth, p) if p >= 0 else []
            if len(siblings) > 1 and not math.isnan(worth[n]):
                std = math.sqrt(variance(siblings, 0))
                shown[n] = 0.0 if std <= 1e-8 else (worth[n] - mean(siblings)) / std
    shown = [0.0 if p < 0 else v for v, p in zip(shown, parents, strict=True)]
    out = {}
    for leaf in range(len(parents)):
        if children(parents, leaf) or math.isnan(scores[leaf]):
            continue
        nodes = path(parents, leaf)
        out[leaf] = [
            shown[n] - (1.0 if eta is None else eta ** (len(nodes) - i)) * shown[nodes[i - 1]]
            for i, n in enumerate(nodes)
            if i > 0
        ]
    return out


def whitened(numbers: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Each number as it comes out of whitening all, the `i`-th standing there `counts[i]` times."""
    row = [x for x, count in zip(numbers, counts, strict=True) for _ in range(count)]
    white = masked_whiten([row], [[1.0] * len(row)])[0]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [float(white[s]) if c else math.nan for s, c in zip(starts, counts, strict=True)]


def vineppo(
    rewards: Sequence[float], before: Sequence[float], last: float
) -> tuple[list[float], list[float]]:
    """VinePPO along one row: advantages, and the values used."""
    filled = [*before, 0.0 if math.isnan(last) else last]
    advantages = [0.0] * len(rewards)
    for t in range(len(rewards) - 1, -1, -1):
        if math.isnan(filled[t]):
            filled[t] = rewards[t] + filled[t + 1]
        advantages[t] = rewards[t] + filled[t + 1] - filled[t]
    return advantages, filled
