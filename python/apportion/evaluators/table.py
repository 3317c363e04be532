"""Between states and the tables of a search: rows of steps, and states after a resume.

Depends on `states`, `search` and NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from apportion.evaluators.requests import Step
from apportion.evaluators.states import State
from apportion.search import Search

Places = tuple[int, int]


def step_rows(states: Mapping[Places, State], search: Search, tree: int) -> list[dict[str, Any]]:
    """See `StepEvaluator.steps`."""
    table = search.nodes()
    first, last = table.offsets[tree : tree + 2].tolist()
    parents = table.parent[first:last].tolist()
    actions = _actions(parents)
    rows = []
    for node, (parent, action) in enumerate(zip(parents, actions, strict=True)):
        above = states.get((tree, parent), State())
        state = states.get((tree, node))
        if state is None and action < len(above.children):
            state = above.children[action]  # evaluated when it was proposed
        if state is None or math.isnan(state.value):
            continue
        row = first + node
        step = state.steps[-1] if state.steps else Step("")
        scores = (state.value,) if state.terminal else state.scores
        rows.append(
            {
                "node": node,
                "parent": parent,
                "depth": int(table.depth[row]),
                # A step cut out of a rollout is kept with all that is before it.
                "text": state.text.removeprefix(above.text),
                "tokens": list(step.tokens[len(above.tokens) - len(state.tokens) :]),
                "log_prob": math.fsum(step.log_probs) if step.log_probs else None,
                "prior": float(table.prior[row]),
                "visits": int(table.visits[row]),
                "q": float(table.value[row]),
                "value": state.value,
                "terminal": state.terminal,
                "scores": list(scores),
                "soft": float(np.mean(scores)) if scores else None,
                "hard": any(score > 0 for score in scores) if scores else None,
            }
        )
    return rows


def states_of(
    search: Search, tree: int, read: Callable[[tuple[int, ...]], Step]
) -> dict[Places, State]:
    """States of the evaluated nodes of a tree, from what the search was told.

    `read` makes a step of tokens. Log-probs are not among what a search is told.
    """
    table, (flat, starts) = search.nodes(), search.tokens()
    first, last = table.offsets[tree : tree + 2].tolist()
    parents = table.parent[first:last].tolist()
    states: list[State] = []
    for node, parent in enumerate(parents):
        row = first + node
        tokens = tuple(flat[starts[row] : starts[row + 1]].tolist())
        steps = () if parent < 0 else (*states[parent].steps, read(tokens))
        states.append(State(steps, terminal=bool(table.terminal[row])))
        if parent >= 0:
            states[parent].children += (states[node],)
    rollouts = search.rollouts()
    for i in range(*rollouts.offsets[tree : tree + 2].tolist()):
        state = states[rollouts.node[i]]
        start, end = rollouts.token_offsets[i : i + 2].tolist()
        state.rollouts += (read(tuple(rollouts.tokens[start:end].tolist())),)
        state.scores += (float(rollouts.reward[i]),)
    evaluated = [
        node
        for node, state in enumerate(states)
        if table.visits[first + node] or state.children or state.scores
    ]
    for node in evaluated:
        scores = states[node].scores
        raw = float(table.raw_value[first + node])
        states[node].value = float(np.mean(scores)) if scores else raw
    return {(tree, node): states[node] for node in evaluated}


def _actions(parents: list[int]) -> list[int]:
    """Which child of its parent each node is."""
    seen: dict[int, int] = {}
    actions = []
    for parent in parents:
        actions.append(seen.get(parent, 0))
        seen[parent] = actions[-1] + 1
    return actions
