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

VALUE_MODES = {
    "leaf": "leaf",
    "child": "child",
    "max": "max",
    "visit": "child",
    "own": "leaf",
    "rollout": "leaf",
}
"""Modes, and the one by which a node without a value of that mode gets one from below."""

READS_VALUES = {"treepo": ("form", "segment"), "tree_grpo": ("mode", "tree_diff")}
"""Methods that look at values of nodes only under a setting of an option."""


@dataclass(frozen=True)
class Found:
    """What a search has found: nodes, rollouts, offsets of the nodes' tokens, the discount."""

    nodes: Nodes
    rollouts: SearchRollouts
    token_offsets: Array
    gamma: float


def credit_of_nodes(
    found: Found, method: str, value_mode: str, own_share: float, options: Mapping[str, Any]
) -> Credit:
    """See `Search.credit`."""
    card = methods().get(str(method))
    known = {} if card is None else {column.name: column for column in card.columns}
    if card is None or "parents" not in known:
        readers = [name for name, one in methods().items() if _reads_trees(one)]
        raise OptionError(f"method: got {method!r}, expected one of {', '.join(readers)}")
    if str(value_mode) not in VALUE_MODES:
        modes = ", ".join(VALUE_MODES)
        raise OptionError(f"value_mode: got {value_mode!r}, expected one of {modes}")
    share = _share(own_share)
    if value_mode != "leaf" or share:
        _check_reads_values(method, known, options, value_mode)
    parents, columns = _rows(found)
    below = VALUE_MODES[value_mode]
    given = dict(options)
    has_option = any(option.name == "value_mode" for option in card.options)
    if has_option:
        given["value_mode"] = below
    if value_mode != below or share or (not has_option and "node_values" in known):
        columns["node_values"] = _values(found, parents, columns, value_mode, share)
    return credit(method, Rollouts.from_tree(parents, **columns), **given)


def _share(own_share: Any) -> float:
    if isinstance(own_share, bool) or not isinstance(own_share, int | float | np.number):
        raise OptionError(f"own_share: got {own_share!r}, expected a number from 0 to 1")
    if not 0 <= own_share <= 1:
        raise OptionError(f"own_share: got {own_share!r}, expected a number from 0 to 1")
    return float(own_share)


def _check_reads_values(
    method: str, known: Mapping[str, Any], options: Mapping[str, Any], value_mode: str
) -> None:
    """Refuses a choice of values where the method would not look at them."""
    name, wanted = READS_VALUES.get(method, ("", ""))
    if "node_values" in known and (not name or options.get(name) == wanted):
        return
    but = f"; {name}={wanted!r} reads values of nodes" if name else ""
    raise OptionError(
        f"{method}: option value_mode: got {value_mode!r}, expected 'leaf' and no own_share, "
        f"because it reads leaves alone{but}"
    )


def _reads_trees(card: Any) -> bool:
    return any(column.name == "parents" for column in card.columns)


def _rows(found: Found) -> tuple[Array, dict[str, Any]]:
    """Parents of nodes and rollouts, and their scores, tokens and mask.

    What was never visited hangs below the root, as a leaf without a score, so that it
    counts in no mean and its parent is a leaf if it has no other children. So does a
    rollout that a branching rule cut in two: its parts are there instead.
    """
    nodes, rollouts = found.nodes, found.rollouts
    parents, trained, lengths = all_parents(found), trained_rows(found), token_lengths(found)
    if not lengths.any():
        lengths = (parents >= 0).astype(np.int64)  # it was told none: each edge is one
    own = np.where(_is_merged(nodes), nodes.value, nodes.raw_value)
    before, discount = _returns(nodes, found.gamma)
    ends = parents[len(nodes.parent) :]
    ended = before[ends] + discount[ends] * rollouts.reward
    scores = np.concatenate([before + discount * own, ended])
    return np.where(trained | (parents < 0), parents, tree_starts(found)), {
        "token_offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "mask": np.repeat(trained, lengths).astype(np.uint8),
        "outcome_rewards": np.where(trained, scores, np.nan),
    }


def all_parents(found: Found) -> Array:
    """Parents of nodes, then of rollouts, counted over all trees; -1 at roots."""
    above = np.concatenate([found.nodes.parent, found.rollouts.node])
    parents: Array = np.where(above < 0, -1, above + tree_starts(found))
    return parents


def trained_rows(found: Found) -> Array:
    """Which nodes, then which rollouts have credit: what was visited and was not cut in two."""
    trained: Array = np.concatenate([_visited(found.nodes), found.rollouts.mark != CUT])
    return trained


def token_lengths(found: Found) -> Array:
    """Numbers of tokens of nodes, then of rollouts."""
    offsets = (found.token_offsets, found.rollouts.token_offsets)
    return np.concatenate([np.diff(of) for of in offsets])


def tree_starts(found: Found) -> Array:
    """The first row of the tree of each node, then of each rollout."""
    nodes = found.nodes
    of_rollouts = np.repeat(nodes.offsets[:-1], np.diff(found.rollouts.offsets))
    return np.concatenate([_starts(nodes), of_rollouts])


def _starts(nodes: Nodes) -> Array:
    """The first row of each node's tree."""
    return np.repeat(nodes.offsets[:-1], np.diff(nodes.offsets))


def _is_merged(nodes: Nodes) -> Array:
    merged: Array = nodes.state != np.arange(len(nodes.state)) - _starts(nodes)
    return merged


def _visited(nodes: Nodes) -> Array:
    """What the search has been at. Rules that compare scores (beams) visit nothing: there
    it is what was given a score, or children. The end that a pool gives a rollout which it
    has searched is left out: nobody told its value, and the rollout is there itself."""
    visited = (nodes.visits > 0) & ~(nodes.terminal & ~nodes.valued)
    return visited if visited.any() else nodes.valued | (nodes.children > 0)


def _values(
    found: Found, parents: Array, columns: Mapping[str, Any], value_mode: str, share: float
) -> Array:
    """Values of nodes and rollouts as returns from the root; NaN where unknown."""
    nodes = found.nodes
    before, discount = _returns(nodes, found.gamma)
    told = np.full(len(parents), np.nan)
    known = _visited(nodes) & (nodes.valued | _is_merged(nodes))
    told[: len(known)] = np.where(known, columns["outcome_rewards"][: len(known)], np.nan)
    values = np.full(len(parents), np.nan)
    if value_mode == "visit":
        if known.any() and not nodes.visits.any():
            raise OptionError(
                "value_mode: got 'visit', expected another: the search's rule compares scores "
                "and visits nothing"
            )
        here = np.where(_visited(nodes), before + discount * nodes.value, np.nan)
        values[: len(here)] = here
    elif value_mode == "own":
        values = told
    elif value_mode == "rollout":
        values[: len(before)] = before + discount * _rollout_means(found)
    else:
        scores = columns["outcome_rewards"]
        values = node_values(parents, scores, value_mode=value_mode)
    if share == 0:
        return values
    mixed = (1 - share) * values + share * told
    return np.where(np.isnan(values), told, np.where(np.isnan(told), values, mixed))


def _rollout_means(found: Found) -> Array:
    """Mean reward of the rollouts that began at each node, NaN where there are none."""
    rollouts, count = found.rollouts, len(found.nodes.parent)
    at = rollouts.node + np.repeat(found.nodes.offsets[:-1], np.diff(rollouts.offsets))
    sums = np.bincount(at, rollouts.reward, minlength=count)
    numbers = np.bincount(at, minlength=count)
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)


def _returns(nodes: Nodes, gamma: float) -> tuple[Array, Array]:
    """Discounted rewards from the root to each node, and the discount of what follows."""
    discount = np.power(gamma, nodes.depth)
    before = np.zeros(len(discount))
    if not np.any(nodes.reward):
        return before, discount
    above = nodes.parent + _starts(nodes)
    for depth in range(1, int(nodes.depth.max(initial=0)) + 1):
        at = np.flatnonzero(nodes.depth == depth)
        before[at] = before[above[at]] + discount[above[at]] * nodes.reward[at]
    return before, discount
