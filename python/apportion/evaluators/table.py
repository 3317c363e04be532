"""Between states and the tables of a search: what it is told, rows of steps, and states after
a resume. Depends on `requests`, `states`, `search` and NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from apportion.evaluators.requests import Step, priors
from apportion.evaluators.states import Found, State, after, span, span_log_probs
from apportion.search import Nodes, Search
from apportion.search.rows import CUT

Places = tuple[int, int]


class Table:
    """What a search was told of all its nodes, read once."""

    def __init__(self, search: Search) -> None:
        """Reads it."""
        self.nodes, self.rollouts = search.nodes(), search.rollouts()
        self._tokens, self._starts = search.tokens()
        self._log_probs = search.log_probs()
        self._scores, self._score_starts = search.child_scores()

    def tokens(self, row: int) -> tuple[int, ...]:
        """Tokens of the edge into a node."""
        return tuple(self._tokens[self._starts[row] : self._starts[row + 1]].tolist())

    def log_probs(self, row: int) -> tuple[float, ...]:
        """Log-probs of those tokens; empty where they were not told."""
        found = self._log_probs[self._starts[row] : self._starts[row + 1]]
        return () if np.isnan(found).any() else tuple(found.tolist())

    def scores(self, row: int) -> tuple[float, ...]:
        """Scores told with a node when it was proposed."""
        return tuple(self._scores[self._score_starts[row] : self._score_starts[row + 1]].tolist())

    def rollouts_of(self, tree: int) -> Iterator[tuple[int, tuple[int, ...], float]]:
        """Node, tokens and reward of each rollout that was told of a tree.

        What is left of a rollout that the search has cut is not: it is a later record, below
        a child of the node that the whole began at.
        """
        whole, first = self.rollouts, int(self.nodes.offsets[tree])
        left: list[tuple[int, tuple[int, ...]]] = []  # nodes and tokens of rollouts cut so far
        for i in range(*whole.offsets[tree : tree + 2].tolist()):
            bounds = whole.token_offsets[i : i + 2]
            node, tokens = int(whole.node[i]), tuple(whole.tokens[slice(*bounds)].tolist())
            row = first + node
            passing = (int(self.nodes.parent[row]), (*self.tokens(row), *tokens))
            if whole.mark[i] == CUT:
                left.append((node, tokens))
            if passing in left:
                left.remove(passing)
            else:
                yield node, tokens, float(whole.reward[i])


def told(found: Sequence[Found], prior: str, child_scores: bool) -> dict[str, Any]:
    """What `Search.expand` is told of what was found; see `StepEvaluator`."""
    children = [[state.steps[-1] for state in one.children] for one in found]
    rollouts = [one.rollouts for one in found]
    answer: dict[str, Any] = {
        "values": [one.state.value for one in found],
        "priors": [priors(steps, prior) for steps in children],
        "terminal": [one.state.terminal for one in found],
        "tokens": [[span(step) for step in steps] for steps in children],
        "token_log_probs": [[span_log_probs(step) for step in steps] for steps in children],
        "rollouts": [one.scores for one in found],
        "rollout_tokens": [[span(step) for step in steps] for steps in rollouts],
    }
    if all(len(step.log_probs) == len(span(step)) for steps in rollouts for step in steps):
        answer["rollout_log_probs"] = [[step.log_probs for step in steps] for steps in rollouts]
    if child_scores:
        answer["child_values"] = [[state.value for state in one.children] for one in found]
        answer["child_scores"] = [[state.all_scores for state in one.children] for one in found]
        answer["child_terminal"] = [[state.terminal for state in one.children] for one in found]
    return answer


def states_in(
    states: Mapping[Places, State], nodes: Nodes, tree: int
) -> Iterator[tuple[int, State]]:
    """The nodes of a tree that stand for something known, and what.

    Those are the answered ones, and the steps that were proposed at them.
    """
    first, last = nodes.offsets[tree : tree + 2].tolist()
    parents = nodes.parent[first:last].tolist()
    for node, (parent, action) in enumerate(zip(parents, _actions(parents), strict=True)):
        proposed = states.get((tree, parent), State()).children
        state = states.get((tree, node))
        if state is None and action < len(proposed):
            state = proposed[action]
        if state is not None:
            yield node, state


def node_texts(
    states: Mapping[Places, State], nodes: Nodes, prompts: Sequence[str]
) -> dict[Places, str]:
    """See `StepEvaluator.texts`."""
    return {
        (tree, node): state.steps[-1].text if state.steps else prompt
        for tree, prompt in enumerate(prompts)
        for node, state in states_in(states, nodes, tree)
    }


def step_rows(states: Mapping[Places, State], table: Table, tree: int) -> list[dict[str, Any]]:
    """See `StepEvaluator.steps`."""
    nodes = table.nodes
    first = int(nodes.offsets[tree])
    rows = []
    for node, state in states_in(states, nodes, tree):
        if math.isnan(state.value):
            continue
        row = first + node
        step = state.steps[-1] if state.steps else Step("")
        log_probs = table.log_probs(row)
        scores = state.all_scores
        rows.append(
            {
                "node": node,
                "parent": int(nodes.parent[row]),
                "depth": int(nodes.depth[row]),
                "text": step.text,
                "tokens": list(step.tokens),
                "log_prob": math.fsum(log_probs) if log_probs else None,
                "prior": float(nodes.prior[row]),
                "visits": int(nodes.visits[row]),
                "q": float(nodes.value[row]),
                "value": state.value,
                "terminal": state.terminal,
                "scores": list(scores),
                "soft": float(np.mean(scores)) if scores else None,
                "hard": any(score > 0 for score in scores) if scores else None,
            }
        )
    return rows


def states_of(
    table: Table, tree: int, read: Callable[[tuple[int, ...]], Step]
) -> dict[Places, State]:
    """States of the answered nodes of a tree, from what the search was told.

    `read` makes a step of tokens.
    """
    nodes = table.nodes
    first, last = nodes.offsets[tree : tree + 2].tolist()
    states: list[State] = []
    for row in range(first, last):
        state = State(terminal=bool(nodes.terminal[row]), scores=table.scores(row))
        if nodes.parent[row] >= 0:
            above = states[nodes.parent[row]]
            step = after(above, table.tokens(row), read)
            if step.tokens:
                step = replace(step, log_probs=table.log_probs(row))
            state.steps = (*above.steps, step)
            above.children += (state,)
        states.append(state)
    for node, tokens, reward in table.rollouts_of(tree):
        states[node].rollouts += (after(states[node], tokens, read),)
        states[node].scores += (reward,)
    answered = {}
    for node, (row, state) in enumerate(zip(range(first, last), states, strict=True)):
        if state.scores:
            state.value = float(np.mean(state.scores))
        elif nodes.valued[row]:
            state.value = float(nodes.raw_value[row])
        if nodes.visits[row] or state.children or state.rollouts:
            answered[tree, node] = state
    return answered


def _actions(parents: list[int]) -> list[int]:
    """Which child of its parent each node is."""
    seen: dict[int, int] = {}
    actions = []
    for parent in parents:
        actions.append(seen.get(parent, 0))
        seen[parent] = actions[-1] + 1
    return actions
