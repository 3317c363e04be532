"""A3: structured action credit from intent signatures of step rows, part by part.

Formulas: number 2.5 of the agentic specification. The released code walks a Python set; here
every order is that of first appearance. May depend on `oracles.common` and `oracles.text`.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .common import Array, as_floats, discounted_suffix_sums, mean, members_by_key
from .text import Token, normalised_edit_distance

Keys = Sequence[Hashable]


@dataclass(frozen=True)
class A3Options:
    """The method's constants; a scope of -1 is the whole trajectory."""

    eps: float = 1e-6
    bound: float = 1.1
    tau: int = 2
    residual_weight: float = 0.65
    tree_weight: float = 1.0
    support_prior: float = 0.1
    gamma: float = 0.9
    scopes: tuple[int, ...] = (1, 2, 3, -1)
    scope_weights: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    match_tolerance: float = 0.05
    time_decay: float = 0.84
    normalise_over: str = "batch"


@dataclass(frozen=True)
class A3Parts:
    """Each array `(N,)`, one entry a step row; groups are numbered by first appearance."""

    backbone: Array
    residual: Array
    residual_bounded: Array
    state_group: list[int]
    action_group: list[int]
    tree_return: Array
    tree_support: Array
    advantages: Array


def robust_scores(values: Sequence[float], *, eps: float = 1e-6) -> list[float]:
    """`tanh((x - med) / s)`: lower median, s = max(1.4826 median|x - med|, 0.5) + eps."""
    centre = _lower_median(values)
    deviation = _lower_median([abs(x - centre) for x in values])
    scale = max(1.4826 * deviation, 0.5) + eps
    return [math.tanh((x - centre) / scale) for x in values]


def _lower_median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def single_linkage_labels(distance: ArrayLike, k: int) -> list[int]:
    """Merge by ascending distance (ties by first, then second index) until k clusters are left;
    labels are numbered by first appearance."""
    d = as_floats(distance)
    n = len(d)
    label = list(range(n))
    edges = sorted((d[i, j], i, j) for i in range(n) for j in range(i + 1, n))
    for _, i, j in edges:
        if len(set(label)) <= max(k, 1):
            break
        old, new = label[j], label[i]
        label = [new if entry == old else entry for entry in label]
    return _first_appearance(label)


def _first_appearance(labels: Sequence[Hashable]) -> list[int]:
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(entry, len(seen)) for entry in labels]


class _Batch:
    """Step rows with their look-ups: rows of a trajectory by turn, rows of a (prompt, turn)."""

    def __init__(
        self,
        prompts: Keys,
        traj: Keys,
        turn: Sequence[int],
        scores: ArrayLike,
        signatures: Sequence[Sequence[Token]],
        options: A3Options,
    ) -> None:
        self.prompts, self.turn, self.signatures = prompts, turn, signatures
        self.scores = as_floats(scores)
        self.options = options
        total = sum(options.scope_weights)
        self.scope_weights = [w / total for w in options.scope_weights]
        self.traj = list(zip(prompts, traj, strict=True))
        self.rows_of = {
            key: sorted(members, key=lambda i: turn[i])
            for key, members in members_by_key(self.traj).items()
        }
        self.labels: list[list[int]] = [[] for _ in prompts]
        self.cluster_of: list[list[list[int]]] = [[] for _ in prompts]
        for members in members_by_key(list(zip(prompts, turn, strict=True))).values():
            self._cluster(members)

    def scope_signature(self, row: int, scope: int) -> list[Token]:
        """The tokens of the last `scope` turns up to the row's; of all turns for -1."""
        rows = self.rows_of[self.traj[row]]
        if scope > 0:
            position = rows.index(row)
            rows = rows[max(0, position + 1 - scope) : position + 1]
        return [token for i in rows for token in self.signatures[i]]

    def _cluster(self, members: list[int]) -> None:
        """Label the trajectories present at one turn of one prompt, once a scope."""
        k = max(1, min(len(members), math.ceil(len(members) / self.options.tau)))
        for scope in self.options.scopes:
            texts = [self.scope_signature(i, scope) for i in members]
            distance = [[normalised_edit_distance(a, b) for b in texts] for a in texts]
            labels = single_linkage_labels(distance, k)
            for i, label in zip(members, labels, strict=True):
                self.labels[i].append(label)
                self.cluster_of[i].append(
                    [j for j, other in zip(members, labels, strict=True) if other == label]
                )

    def hamming(self, a: int, b: int) -> float:
        """Scope-weighted Hamming distance of two rows' label vectors."""
        return sum(
            w
            for w, x, y in zip(self.scope_weights, self.labels[a], self.labels[b], strict=True)
            if x != y
        )

    def history_distance(self, a: int, b: int) -> float:
        """Time-weighted distance of what came before two rows; infinite for unlike turns."""
        before_a = [i for i in self.rows_of[self.traj[a]] if self.turn[i] < self.turn[a]]
        before_b = [i for i in self.rows_of[self.traj[b]] if self.turn[i] < self.turn[b]]
        if [self.turn[i] for i in before_a] != [self.turn[i] for i in before_b]:
            return math.inf
        weights = [self.options.time_decay**j for j in range(len(before_a))]
        return sum(
            w / sum(weights) * self.hamming(i, j)
            for w, i, j in zip(weights, before_a, before_b, strict=True)
        )


def a3(
    prompts: Keys,
    traj: Keys,
    turn: Sequence[int],
    episode_scores: ArrayLike,
    signatures: Sequence[Sequence[Token]],
    options: A3Options | None = None,
) -> A3Parts:
    """All parts of the credit; multiply `advantages` by the mask for tokens."""
    opts = options or A3Options()
    batch = _Batch(prompts, traj, turn, episode_scores, signatures, opts)
    backbone = _robust_by_trajectory(batch, batch.scores)
    residual = as_floats([_residual(batch, i) for i in range(len(prompts))])
    bounded = _robust_by_trajectory(batch, residual)
    states, actions = _states_and_actions(batch)
    returns, support = _tree(batch, states, actions)
    tree = returns * support / (support + opts.support_prior + opts.eps)
    merged = (
        _balance(backbone, prompts, opts.normalise_over)
        + opts.residual_weight * _balance(bounded, prompts, opts.normalise_over)
        + opts.tree_weight * _balance(tree, prompts, opts.normalise_over)
    )
    advantages = opts.bound * np.tanh(merged / opts.bound)
    return A3Parts(
        backbone, residual, bounded, states, actions, returns, support, as_floats(advantages)
    )


def _robust_by_trajectory(batch: _Batch, values: Array) -> Array:
    """Robust score per prompt over each trajectory's first row, given to all its rows."""
    out = np.zeros(len(values))
    first = {key: rows[0] for key, rows in batch.rows_of.items()}
    for keys in members_by_key([batch.prompts[i] for i in first.values()]).values():
        names = [list(first)[n] for n in keys]
        robust = robust_scores(
            [float(values[first[name]]) for name in names], eps=batch.options.eps
        )
        for name, score in zip(names, robust, strict=True):
            for i in batch.rows_of[name]:
                out[i] = score
    return out


def _residual(batch: _Batch, row: int) -> float:
    """Scope-weighted outcome minus the mean outcome of the others in the row's cluster."""
    total = 0.0
    for weight, cluster in zip(batch.scope_weights, batch.cluster_of[row], strict=True):
        others = [float(batch.scores[j]) for j in cluster if j != row]
        if others:
            total += weight * (float(batch.scores[row]) - mean(others))
    return total


def _join(rows: list[int], close: Callable[[int, int], bool]) -> list[int]:
    """Labels of the transitive closure of a symmetric relation."""
    label = list(range(len(rows)))
    for a in range(len(rows)):
        for b in range(a + 1, len(rows)):
            if close(rows[a], rows[b]):
                old, new = label[b], label[a]
                label = [new if entry == old else entry for entry in label]
    return label


def _states_and_actions(batch: _Batch) -> tuple[list[int], list[int]]:
    """State and action group of each row, numbered over the batch by first appearance."""
    n = len(batch.prompts)
    tolerance = batch.options.match_tolerance
    state: list[Hashable] = [None] * n
    action: list[Hashable] = [None] * n
    for key, rows in members_by_key(list(zip(batch.prompts, batch.turn, strict=True))).items():
        joined = _join(rows, lambda a, b: batch.history_distance(a, b) <= tolerance)
        for i, label in zip(rows, joined, strict=True):
            state[i] = (key, label)
    for key, rows in members_by_key(state).items():
        joined = _join(rows, lambda a, b: batch.hamming(a, b) <= tolerance)
        for i, label in zip(rows, joined, strict=True):
            action[i] = (key, label)
    return _first_appearance(state), _first_appearance(action)


def _tree(batch: _Batch, states: list[int], actions: list[int]) -> tuple[Array, Array]:
    """Discounted suffix sums, along each trajectory, of shrunk gains and of their supports."""
    opts = batch.options
    gain, support = np.zeros(len(states)), np.zeros(len(states))
    for rows in members_by_key(states).values():
        by_action = members_by_key([actions[i] for i in rows])
        if len(rows) < 2 or len(by_action) < 2:
            continue
        state_mean = mean([float(batch.scores[i]) for i in rows])
        for places in by_action.values():
            chosen = [rows[p] for p in places]
            kappa = len(chosen) / (len(chosen) + opts.support_prior + opts.eps)
            action_mean = mean([float(batch.scores[i]) for i in chosen])
            for i in chosen:
                gain[i] = kappa * (action_mean - state_mean)
                support[i] = kappa
    returns, supports = np.zeros(len(states)), np.zeros(len(states))
    for rows in batch.rows_of.values():
        returns[rows] = discounted_suffix_sums([float(gain[i]) for i in rows], opts.gamma)
        supports[rows] = discounted_suffix_sums([float(support[i]) for i in rows], opts.gamma)
    return returns, supports


def _balance(values: Array, prompts: Keys, normalise_over: str) -> Array:
    """Divide by the mean absolute value + 1e-9, over the batch or over each prompt."""
    keys = ["all"] * len(prompts) if normalise_over == "batch" else list(prompts)
    out = np.zeros_like(values)
    for members in members_by_key(keys).values():
        size = sum(abs(float(values[i])) for i in members) / len(members)
        for i in members:
            out[i] = values[i] / (size + 1e-9)
    return out
