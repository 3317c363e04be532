"""What in a batch deserves a warning before it is trained on. NumPy and `rollouts` alone.

A finding names the groups that it concerns, so that the page can list them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion.arrays import Array
from apportion.rollouts import Rollouts


@dataclass(frozen=True)
class Batch:
    """A batch as the report sees it: one value a trajectory or turn, in turn order."""

    groups: Array  # (trajectories,) dense numbers
    group_names: list[str]
    offsets: Array  # (trajectories + 1,) into turns
    spans: Array  # (turns, 2) flat token positions
    rows: Array | None  # the row of each turn, where a row is a turn
    outcomes: Array | None  # (trajectories,), NaN where absent
    turn_rewards: Array | None  # (turns,), NaN where absent
    alone: Array  # (turns,) whether no other turn of the group has its anchor
    anchored: bool  # whether there are anchors at all

    @classmethod
    def of(cls, rollouts: Rollouts) -> Batch:
        """Reads what the report needs."""
        offsets, spans = rollouts.turns
        rows = rollouts.turn_rows
        trajectories = rollouts.num_trajectories
        last_rows = None if rows is None else rows[offsets[1:] - 1]
        groups, names = _groups(rollouts, trajectories, last_rows)
        of_turn = np.repeat(groups, np.diff(offsets))
        anchors = rollouts.columns.get("anchors")
        return cls(
            groups=groups,
            group_names=names,
            offsets=offsets,
            spans=spans,
            rows=rows,
            outcomes=_picked(_outcomes(rollouts), last_rows),
            turn_rewards=_turn_rewards(rollouts, spans, rows),
            alone=_alone(anchors, of_turn, rows),
            anchored=anchors is not None,
        )

    def in_turn_order(self, values: Array) -> Array:
        """Values of turns as Python gave them (by row, where a row is a turn), by turn."""
        return values if self.rows is None else values[self.rows]


def _picked(values: Array | None, rows: Array | None) -> Array | None:
    if values is None or rows is None:
        return values
    picked: Array = values[rows]
    return picked


def _groups(
    rollouts: Rollouts, trajectories: int, last_rows: Array | None
) -> tuple[Array, list[str]]:
    ids = rollouts.columns.get("group_ids")
    if ids is None:
        return np.zeros(trajectories, dtype=np.int64), ["all"] if trajectories else []
    groups = rollouts.groups
    _, firsts = np.unique(groups, return_index=True)
    places = firsts if last_rows is None else last_rows[firsts]
    return groups, [_name(ids[place]) for place in places.tolist()]


def _name(key: Any) -> str:
    """A group's id for people. Ids that are neither text nor integers came as tagged bytes."""
    if not isinstance(key, bytes):
        return str(key)
    tag, rest = key[:1], key[1:]
    return rest.decode("utf-8", "replace") if tag in (b"s", b"i") else rest.hex()[:32]


def _zeroed(rollouts: Rollouts, values: Array) -> Array:
    return np.where(np.isnan(values), 0.0, values) if rollouts.nan.rewards == "zero" else values


def _outcomes(rollouts: Rollouts) -> Array | None:
    """Score of each row: as given, else the sum over reward functions, else over tokens."""
    columns = rollouts.columns
    if "outcome_rewards" in columns:
        return _zeroed(rollouts, np.asarray(columns["outcome_rewards"], dtype=np.float64))
    if "reward_matrix" in columns:
        flat, width = columns["reward_matrix"]
        scores = _zeroed(rollouts, np.asarray(flat, dtype=np.float64))
        sums: Array = scores.reshape(-1, width).sum(axis=1)
        return sums
    if "token_rewards" in columns:
        layout = rollouts.layout
        starts = layout.token_offsets
        if starts is None:
            starts = np.arange(layout.rows + 1) * (layout.width or 0)
        spans = np.stack([starts[:-1], starts[1:]], axis=1)
        return _token_sums(rollouts, spans)
    return None


def _turn_rewards(rollouts: Rollouts, spans: Array, rows: Array | None) -> Array | None:
    columns = rollouts.columns
    if "turn_rewards" in columns:
        values = _zeroed(rollouts, np.asarray(columns["turn_rewards"], dtype=np.float64))
        return values if rows is None else values[rows]
    return _token_sums(rollouts, spans) if "token_rewards" in columns else None


def _token_sums(rollouts: Rollouts, spans: Array) -> Array:
    """Sum of the trained tokens' rewards over spans of tokens."""
    values = _zeroed(rollouts, np.asarray(rollouts.columns["token_rewards"], dtype=np.float64))
    mask = rollouts.layout.mask
    trained = values if mask is None else np.where(mask != 0, values, 0.0)
    return np.array([trained[start:end].sum() for start, end in spans.tolist()])


def _alone(anchors: Any, groups: Array, rows: Array | None) -> Array:
    if anchors is None:
        return np.zeros(len(groups), dtype=bool)
    keys = anchors.tolist() if isinstance(anchors, np.ndarray) else anchors
    if rows is not None:
        keys = [keys[row] for row in rows.tolist()]
    pairs = list(zip(groups.tolist(), keys, strict=True))
    times = Counter(pairs)
    return np.array([times[pair] == 1 for pair in pairs], dtype=bool)


def findings(batch: Batch) -> list[dict[str, Any]]:
    """What was found: `kind`, a `short` name for lists, a sentence, and the groups concerned."""
    sizes = np.bincount(batch.groups, minlength=len(batch.group_names))
    found = [_single(sizes), *_of_outcomes(batch, sizes), *_of_turns(batch)]
    return [one for one in found if one is not None]


def _finding(kind: str, short: str, text: str, groups: Array) -> dict[str, Any]:
    return {"kind": kind, "short": short, "text": text, "groups": groups.tolist()}


def _share(part: int, whole: int, noun: str) -> str:
    return f"{part:,} of {whole:,} {noun}"


def _single(sizes: Array) -> dict[str, Any] | None:
    single = np.flatnonzero(sizes == 1)
    if not len(single):
        return None
    text = (
        f"{_share(len(single), len(sizes), 'groups')} have a single trajectory: there is nothing "
        "to compare it with."
    )
    return _finding("single", "one trajectory", text, single)


def _of_outcomes(batch: Batch, sizes: Array) -> list[dict[str, Any]]:
    if batch.outcomes is None:
        return []
    found = []
    absent = np.isnan(batch.outcomes)
    present = batch.groups[~absent]
    low, high = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
    np.minimum.at(low, present, batch.outcomes[~absent])
    np.maximum.at(high, present, batch.outcomes[~absent])
    equal = np.flatnonzero((low == high) & (sizes > 1))
    if len(equal):
        text = (
            f"{_share(len(equal), len(sizes), 'groups')} have equal outcomes throughout: "
            "comparing outcomes within them gives no credit."
        )
        found.append(_finding("equal", "equal outcomes", text, equal))
    if absent.any():
        text = (
            f"{_share(int(absent.sum()), len(absent), 'trajectories')} have no outcome reward: "
            "they are left out of every statistic."
        )
        found.append(_finding("absent", "missing reward", text, np.unique(batch.groups[absent])))
    return found


def _of_turns(batch: Batch) -> list[dict[str, Any]]:
    found = []
    counts = np.diff(batch.offsets)
    of_turn = np.repeat(batch.groups, counts)
    if batch.turn_rewards is not None and (absent := np.isnan(batch.turn_rewards)).any():
        text = f"{_share(int(absent.sum()), len(absent), 'turns')} have no turn reward."
        found.append(_finding("turn", "missing turn reward", text, np.unique(of_turn[absent])))
    if batch.anchored and batch.alone.any():
        groups = len(batch.group_names)
        lonely = np.bincount(of_turn[batch.alone], minlength=groups)
        most = np.flatnonzero(2 * lonely > np.bincount(of_turn, minlength=groups))
        text = (
            f"{_share(int(batch.alone.sum()), len(of_turn), 'turns')} are in a state that no other "
            "turn of their group shares: methods that compare states have nothing to compare "
            "there."
        )
        if len(most):
            text += f" They are most turns of {_share(len(most), groups, 'groups')}."
        found.append(_finding("alone", "states not shared", text, most))
    bare = batch.spans[:, 0] == batch.spans[:, 1]
    if bare.any():
        text = f"{_share(int(bare.sum()), len(bare), 'turns')} have no tokens: no loss sees them."
        found.append(_finding("bare", "no tokens", text, np.unique(of_turn[bare])))
    if (counts == 0).any():
        text = f"{_share(int((counts == 0).sum()), len(counts), 'trajectories')} have no turns."
        found.append(_finding("empty", "no turns", text, np.unique(batch.groups[counts == 0])))
    return found
