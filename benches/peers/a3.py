"""A3, structured action credit: all-pairs loops over rows in Python.

From the published formulas; the released code compares every pair of rows of the
batch too, and measures edit distances by the full table.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

EPS = 1e-6
SCOPES, WEIGHTS = (1, 2, 3, -1), (0.25, 0.25, 0.25, 0.25)
TAU, PRIOR, GAMMA, TOLERANCE, DECAY, BOUND = 2, 0.1, 0.9, 0.05, 0.84, 1.1


def edit_distance(a: Sequence[str], b: Sequence[str]) -> float:
    """Levenshtein over the longer length."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1] / max(len(a), len(b), 1)


def robust(values: list[float]) -> list[float]:
    """Distance from the lower median over a floored deviation, bounded."""
    centre = statistics.median_low(values)
    deviation = statistics.median_low([abs(v - centre) for v in values])
    return [math.tanh((v - centre) / (max(1.4826 * deviation, 0.5) + EPS)) for v in values]


def single_linkage(names: list[Any], distance: dict[Any, float], clusters: int) -> dict[Any, int]:
    """Labels after merging by ascending distance until `clusters` are left."""
    label = {name: i for i, name in enumerate(names)}
    for pair in sorted(distance, key=lambda pair: distance[pair]):
        if len(set(label.values())) <= clusters:
            break
        old, new = label[pair[1]], label[pair[0]]
        for name in names:
            if label[name] == old:
                label[name] = new
    return label


def _union(count: int, same: Callable[[int, int], bool]) -> list[int]:
    """Transitive closure of `same` over all pairs of rows."""
    parent = list(range(count))

    def find(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for a in range(count):
        for b in range(a + 1, count):
            if same(a, b):
                parent[find(b)] = find(a)
    return [find(i) for i in range(count)]


def credit(
    prompt: list[str],
    traj: list[str],
    turn: list[int],
    score: list[float],
    signature: list[list[str]],
) -> list[float]:
    """Advantage of each step row; rows of a trajectory in the order of their turns."""
    count = len(prompt)
    rows_of = defaultdict(list)
    for i in range(count):
        rows_of[prompt[i], traj[i]].append(i)
    labels = _labels(prompt, traj, turn, signature, rows_of)

    def hamming(a: int, b: int) -> float:
        return sum(w for w, x, y in zip(WEIGHTS, labels[a], labels[b], strict=True) if x != y)

    def same_state(a: int, b: int) -> bool:
        if prompt[a] != prompt[b] or turn[a] != turn[b]:
            return False
        earlier = [
            (i, j)
            for i, j in zip(rows_of[prompt[a], traj[a]], rows_of[prompt[b], traj[b]], strict=False)
            if turn[i] < turn[a]
        ]
        decays = [DECAY**k for k in range(len(earlier))]
        total = sum(decays)
        gaps = (d / total * hamming(i, j) for d, (i, j) in zip(decays, earlier, strict=True))
        return sum(gaps) <= TOLERANCE

    state = _union(count, same_state)
    action = _union(count, lambda a, b: state[a] == state[b] and hamming(a, b) <= TOLERANCE)

    first = [rows[0] for rows in rows_of.values()]
    backbone = _by_prompt(score, prompt, first, rows_of)
    residual = [_residual(i, prompt, turn, score, labels) for i in range(count)]
    residual = _by_prompt(residual, prompt, first, rows_of)
    tree = _tree(score, state, action, rows_of)
    parts = [_balanced(part) for part in (backbone, residual, tree)]
    return [BOUND * math.tanh((b + 0.65 * e + t) / BOUND) for b, e, t in zip(*parts, strict=True)]


def _labels(
    prompt: list[str], traj: list[str], turn: list[int], signature: Any, rows_of: Any
) -> list[list[int]]:
    """A cluster label a scope for each row."""
    labels: list[list[int]] = [[] for _ in prompt]
    for key in dict.fromkeys(zip(prompt, turn, strict=True)):
        rows = [i for i in range(len(prompt)) if (prompt[i], turn[i]) == key]
        for scope in SCOPES:
            texts = {}
            for i in rows:
                own = rows_of[prompt[i], traj[i]]
                at = own.index(i)
                taken = own if scope < 0 else own[max(0, at + 1 - scope) : at + 1]
                texts[i] = [token for k in taken for token in signature[k]]
            distance = {
                (a, b): edit_distance(texts[a], texts[b]) for a in rows for b in rows if a < b
            }
            clusters = max(1, min(len(rows), math.ceil(len(rows) / TAU)))
            found = single_linkage(rows, distance, clusters)
            for i in rows:
                labels[i].append(found[i])
    return labels


def _residual(row: int, prompt: Any, turn: Any, score: Any, labels: Any) -> float:
    total = 0.0
    for scope, weight in enumerate(WEIGHTS):
        others = [
            score[i]
            for i in range(len(prompt))
            if i != row
            and prompt[i] == prompt[row]
            and turn[i] == turn[row]
            and labels[i][scope] == labels[row][scope]
        ]
        if others:
            total += weight * (score[row] - sum(others) / len(others))
    return total


def _by_prompt(
    values: list[float], prompt: list[str], first: list[int], rows_of: Any
) -> list[float]:
    """Robust scores of the trajectories' first rows, given to all their rows."""
    out = [0.0] * len(values)
    for name in dict.fromkeys(prompt):
        own = [i for i in first if prompt[i] == name]
        for row, value in zip(own, robust([values[i] for i in own]), strict=True):
            for i in next(rows for rows in rows_of.values() if rows[0] == row):
                out[i] = value
    return out


def _tree(score: list[float], state: list[int], action: list[int], rows_of: Any) -> list[float]:
    count = len(score)
    gain, support = [0.0] * count, [0.0] * count
    for name in dict.fromkeys(state):
        rows = [i for i in range(count) if state[i] == name]
        actions = {action[i] for i in rows}
        if len(rows) < 2 or len(actions) < 2:
            continue
        mean = sum(score[i] for i in rows) / len(rows)
        for chosen in actions:
            own = [i for i in rows if action[i] == chosen]
            kappa = len(own) / (len(own) + PRIOR + EPS)
            for i in own:
                gain[i] = kappa * (sum(score[k] for k in own) / len(own) - mean)
                support[i] = kappa
    out = [0.0] * count
    for rows in rows_of.values():
        total = weight = 0.0
        for i in reversed(rows):
            total = gain[i] + GAMMA * total
            weight = support[i] + GAMMA * weight
            out[i] = total * weight / (weight + PRIOR + EPS)
    return out


def _balanced(values: list[float]) -> list[float]:
    size = sum(abs(v) for v in values) / len(values)
    return [v / (size + 1e-9) for v in values]
