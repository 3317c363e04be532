"""A search's trees as rollouts of which each row is a node, and credit from them.

Depends on `data`, `rollouts`, `credit` and `tree_credit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion.arrays import Array
from apportion.credit import Credit, credit
from apportion.errors import OptionError
from apportion.methods import methods
from apportion.rollouts import Rollouts
from apportion.tree_credit import node_values

if TYPE_CHECKING:
    from apportion.search.data import Nodes, SearchRollouts

CUT = 2**32 - 1
"""Mark of a rollout that was cut in two."""


@dataclass(frozen=True)
class Found:
    """What a search has found: nodes, rollouts, offsets of the nodes' tokens, the discount."""

    nodes: Nodes
    rollouts: SearchRollouts
    token_offsets: Array
    gamma: float


def credit_of_nodes(
    found: Found, method: str, value_mode: str, options: Mapping[str, Any]
) -> Credit:
    """See `Search.credit`."""
    card = methods().get(method)
    known = {} if card is None else {column.name: column for column in card.columns}
    if card is None or "parents" not in known:
        readers = [name for name, one in methods().items() if _reads_trees(one)]
        raise OptionError(f"method: got {method!r}, expected one of {', '.join(readers)}")
    has_option = any(option.name == "value_mode" for option in card.options)
    given = dict(options)
    if has_option:
        # Values of visits are known: they are what the search backed up.
        given["value_mode"] = "child" if value_mode == "visit" else value_mode
    elif "node_values" not in known and value_mode != "leaf":
        raise OptionError(
            f"{method}: option value_mode: got {value_mode!r}, expected 'leaf', "
            "because it reads leaves alone"
        )
    parents, columns = _rows(found)
    if value_mode == "visit":
        columns["node_values"] = _visit_values(found, len(parents))
    elif not has_option and "node_values" in known:
        scores = columns["outcome_rewards"]
        columns["node_values"] = node_values(parents, scores, value_mode=value_mode)
    return credit(method, Rollouts.from_tree(parents, **columns), **given)


def _reads_trees(card: Any) -> bool:
    return any(column.name == "parents" for column in card.columns)


def _rows(found: Found) -> tuple[Array, dict[str, Any]]:
    """Parents of nodes and rollouts, and their scores, tokens and mask.

    What was never visited hangs below the root, as a leaf without a score, so that it
    counts in no mean and its parent is a leaf if it has no other children. So does a
    rollout that a branching rule cut in two: its parts are there instead.
    """
    nodes, rollouts = found.nodes, found.rollouts
    starts = np.repeat(nodes.offsets[:-1], np.diff(nodes.offsets))
    of_rollouts = np.repeat(nodes.offsets[:-1], np.diff(rollouts.offsets))
    visited = nodes.visits > 0
    is_root = nodes.parent < 0
    parents = np.where(is_root, -1, np.where(visited, nodes.parent + starts, starts))
    lengths = np.concatenate([np.diff(found.token_offsets), np.diff(rollouts.token_offsets)])
    whole = rollouts.mark != CUT
    trained = np.concatenate([visited, whole])
    own = np.where(nodes.state == np.arange(len(visited)) - starts, nodes.raw_value, nodes.value)
    before, discount = _returns(nodes, found.gamma)
    scores = np.where(visited, before + discount * own, np.nan)
    ends = rollouts.node + of_rollouts
    ended = np.where(whole, before[ends] + discount[ends] * rollouts.reward, np.nan)
    return np.concatenate([parents, np.where(whole, ends, of_rollouts)]), {
        "token_offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "mask": np.repeat(trained, lengths).astype(np.uint8),
        "outcome_rewards": np.concatenate([scores, ended]),
    }


def _visit_values(found: Found, rows: int) -> Array:
    nodes = found.nodes
    before, discount = _returns(nodes, found.gamma)
    values = np.full(rows, np.nan)
    values[: len(nodes.visits)] = np.where(
        nodes.visits > 0, before + discount * nodes.value, np.nan
    )
    return values


def _returns(nodes: Nodes, gamma: float) -> tuple[Array, Array]:
    """Discounted rewards from the root to each node, and the discount of what follows."""
    discount = np.power(gamma, nodes.depth)
    before = np.zeros(len(discount))
    if not np.any(nodes.reward):
        return before, discount
    starts = np.repeat(nodes.offsets[:-1], np.diff(nodes.offsets))
    above = nodes.parent + starts
    for depth in range(1, int(nodes.depth.max(initial=0)) + 1):
        at = np.flatnonzero(nodes.depth == depth)
        before[at] = before[above[at]] + discount[above[at]] * nodes.reward[at]
    return before, discount
