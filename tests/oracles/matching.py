"""MatchTIR's rewards: similarity of tool calls, and three ways to match predicted with gold.

Formulas: the paper's section on turn rewards and the released `reward_score/tool.py`. May
depend on NumPy alone.
"""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .common import Array, as_floats

Call = Mapping[str, Any]
Assignment = list[int | None]


def tool_similarity(predicted: Call, gold: Call) -> float:
    """`(1 + J + V) / (2 + |gold params|)`, or 0 when the names differ (case-insensitive).

    J is the multiset Jaccard of parameter names (two empty lists: 1), V the number of gold
    parameters present with an equal value, where 1, 1.0 and true are equal as in Python.
    """
    if str(predicted["name"]).lower() != str(gold["name"]).lower():
        return 0.0
    arguments = _arguments(predicted)
    parameters = _arguments(gold)
    jaccard = _multiset_jaccard(list(arguments), list(parameters))
    equal = 0
    for name in parameters:
        if name in arguments and arguments[name] == parameters[name]:
            equal += 1
    return (1.0 + jaccard + equal) / (2.0 + len(parameters))


def _arguments(call: Call) -> Mapping[str, Any]:
    """The parameters of a call: `arguments` (JSON text or object) or `parameters`."""
    raw = call["arguments"] if "arguments" in call else call["parameters"]
    parsed: Mapping[str, Any] = json.loads(raw) if isinstance(raw, str) else raw
    return parsed


def _multiset_jaccard(a: Sequence[str], b: Sequence[str]) -> float:
    left, right = Counter(a), Counter(b)
    if left == right:
        return 1.0
    return sum((left & right).values()) / sum((left | right).values())


def similarity_matrix(predicted: Sequence[Call], gold: Sequence[Call]) -> Array:
    """Shape `(P, G)`."""
    out = np.zeros((len(predicted), len(gold)))
    for p, call in enumerate(predicted):
        for g, wanted in enumerate(gold):
            out[p, g] = tool_similarity(call, wanted)
    return out


def greedy_assignment(similarity: ArrayLike) -> Assignment:
    """Pairs by descending similarity, ties by row then column; only similarities above 0."""
    s = as_floats(similarity)
    rows, columns = s.shape if s.ndim == 2 else (len(s), 0)
    pairs = [(-s[p, g], p, g) for p in range(rows) for g in range(columns) if s[p, g] > 0]
    assignment: Assignment = [None] * rows
    taken: set[int] = set()
    for _, p, g in sorted(pairs):
        if assignment[p] is None and g not in taken:
            assignment[p] = g
            taken.add(g)
    return assignment


def optimal_total(similarity: ArrayLike) -> float:
    """The largest total similarity of a one-to-one assignment, over all permutations.

    For small sizes (P and G up to 7 or so). Several assignments may reach it, so a test
    compares totals.
    """
    s = as_floats(similarity)
    if s.size == 0:
        return 0.0
    if s.shape[0] > s.shape[1]:
        s = s.T
    best = -np.inf
    for columns in itertools.permutations(range(s.shape[1]), s.shape[0]):
        best = max(best, sum(float(s[p, g]) for p, g in enumerate(columns)))
    return float(best)


def optimal_assignments(similarity: ArrayLike, *, tolerance: float = 1e-12) -> list[Assignment]:
    """Every full one-to-one assignment that reaches the optimal total."""
    s = as_floats(similarity)
    rows, columns = s.shape
    best = optimal_total(s)
    found: list[Assignment] = []
    slots: list[int | None] = [*range(columns), *([None] * max(rows - columns, 0))]
    for choice in itertools.permutations(slots, rows):
        total = sum(float(s[p, g]) for p, g in enumerate(choice) if g is not None)
        if total >= best - tolerance and list(choice) not in found:
            found.append(list(choice))
    return found


def hard_rewards(
    similarity: ArrayLike, assignment: Assignment, *, unmatched: float = 0.0
) -> list[float]:
    """The similarity of each predicted call's partner, or `unmatched`."""
    s = as_floats(similarity)
    return [unmatched if g is None else float(s[p, g]) for p, g in enumerate(assignment)]


def sinkhorn_rewards(
    similarity: ArrayLike,
    *,
    reg: float = 0.1,
    max_rounds: int = 1000,
    tolerance: float = 1e-9,
) -> list[float]:
    """`r_p = sum_g T_pg S_pg` under the entropic transport T with marginals 1/P and 1/G.

    u starts at 1/P; each round v = (1/G)/(K'u), u = (1/P)/(Kv) with K = exp(S/reg); every tenth
    round, the first included, the column residual's norm is tested. No gold call: zeros.
    """
    s = as_floats(similarity)
    if s.ndim < 2 or s.size == 0:
        return [0.0] * len(s)
    rows, columns = s.shape
    kernel = np.exp(s / reg)
    u = np.full(rows, 1.0 / rows)
    v = np.full(columns, 1.0 / columns)
    for round_number in range(max_rounds):
        v = (1.0 / columns) / (kernel.T @ u)
        u = (1.0 / rows) / (kernel @ v)
        if round_number % 10 == 0:
            column_sums = v * (kernel.T @ u)
            if np.sqrt(np.sum((column_sums - 1.0 / columns) ** 2)) < tolerance:
                break
    transport = u[:, None] * kernel * v[None, :]
    return [float(total) for total in np.sum(transport * s, axis=1)]
