"""Credit as rows, one a trajectory, in flat arrays with offsets. Depends on `credit` and NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion.arrays import Array
from apportion.credit import Credit
from apportion.rollouts import Rollouts

SLICE = 4096  # trajectories in a slice


@dataclass(frozen=True)
class Part:
    """One part of the credit, by turn and by trained token."""

    by_turn: Array
    by_token: Array


@dataclass(frozen=True)
class Rows:
    """Credit of some trajectories. Offsets: trajectory to turns, turn to tokens."""

    groups: list[str | int]
    names: list[str]
    outcomes: Array
    turn_offsets: Array
    token_offsets: Array
    parts: dict[str, Part]

    @property
    def without_tokens(self) -> Array:
        """Whether each trajectory has no token at all."""
        bare: Array = np.diff(self.token_offsets[self.turn_offsets]) == 0
        return bare

    def slices(self) -> Iterator[Rows]:
        """The same rows, at most `SLICE` trajectories at a time."""
        for start in range(0, max(len(self.names), 1), SLICE):
            yield self._slice(start, min(start + SLICE, len(self.names)))

    def _slice(self, start: int, stop: int) -> Rows:
        turns = self.turn_offsets[start : stop + 1]
        tokens = self.token_offsets[turns[0] : turns[-1] + 1]
        parts = {
            name: Part(part.by_turn[turns[0] : turns[-1]], part.by_token[tokens[0] : tokens[-1]])
            for name, part in self.parts.items()
        }
        return Rows(
            self.groups[start:stop],
            self.names[start:stop],
            self.outcomes[start:stop],
            turns - turns[0],
            tokens - tokens[0],
            parts,
        )


def rows_of(credit: Credit) -> Rows:
    """All rows of a credit, in the order of its trajectories."""
    rollouts = credit.rollouts
    offsets, spans = rollouts.turns
    token_offsets = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])])
    # The places of all turns' tokens, one turn after the other.
    shift = np.repeat(spans[:, 0] - token_offsets[:-1], np.diff(token_offsets))
    places = np.arange(token_offsets[-1]) + shift
    first_rows = _first_rows(rollouts)
    groups = _group_names(rollouts)
    names = rollouts.trajectory_names or [str(i) for i in range(rollouts.num_trajectories)]
    return Rows(
        [groups[row] for row in first_rows],
        list(names),
        _outcomes(rollouts, first_rows),
        offsets,
        token_offsets,
        {
            name: Part(_by_turn(credit, name), credit.tokens(name, np.float64)[places])
            for name in credit.values
        },
    )


def _by_turn(credit: Credit, name: str) -> Array:
    """A part in turn order, also where a row is a turn."""
    values = credit._by_turn(*credit.values[name])
    rows = credit.rollouts.turn_rows
    return values if rows is None else values[rows]


def _first_rows(rollouts: Rollouts) -> list[int]:
    """The row that a trajectory's own columns are read from."""
    rows = rollouts.turn_rows
    if rows is None:
        return list(range(rollouts.num_trajectories))
    return [int(rows[start]) for start in rollouts.turns[0][:-1]]


def _group_names(rollouts: Rollouts) -> list[str | int]:
    """The group of each row as it was given, or its number where that is no name."""
    given: Any = rollouts.columns.get("group_ids")
    if given is None:
        return [0] * rollouts.layout.rows
    values = given.tolist() if isinstance(given, np.ndarray) else given
    return [_untagged(v) if isinstance(v, bytes) else v for v in values]


def _untagged(key: bytes) -> str | int:
    """Undoes `encode.keys` for strings and integers; other ids are shown as hex."""
    if key[:1] == b"s":
        return key[1:].decode("utf-8", "replace")
    return int(key[1:]) if key[:1] == b"i" else key.hex()


def _outcomes(rollouts: Rollouts, first_rows: list[int]) -> Array:
    given: Any = rollouts.columns.get("outcome_rewards")
    if given is None:
        return np.full(len(first_rows), np.nan)
    values: Array = np.asarray(given, dtype=np.float64)[first_rows]
    return values
