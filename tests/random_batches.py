"""Random batches with every column that some method reads, for tests of all methods.

A batch comes from a seed alone. Values are of the column's kind, so that a new
method's columns need no edit here unless their text has a syntax of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import apportion as ap
from apportion.methods import Column, MethodCard

WORDS = ("look", "go east", "take lamp", "open door", "read sign", "wait")
# With these a row is a node of a tree and no trajectory: `test_tree_credit.py` has batches of them.
NODES_AS_ROWS = {"parents", "visits", "node_values"}
CALL = '[{{"name": "search", "arguments": {{"q": "{0}", "k": {1}}}}}]'


@dataclass(frozen=True)
class Shape:
    """How a batch looks."""

    groups: int = 3
    size: int = 4  # trajectories in a group
    width: int = 24
    turns: int = 3  # at most, in a trajectory
    nan_share: float = 0.0
    singletons: bool = False  # one more group of one
    scale: float = 1.0  # of rewards
    dtype: type = np.float64
    masked_rows: bool = False  # some rows without a trained token

    @property
    def rows(self) -> int:
        return self.groups * self.size + self.singletons


@dataclass
class Batch:
    """What `Rollouts.from_padded` takes, with every column."""

    mask: np.ndarray
    columns: dict[str, Any] = field(default_factory=dict)
    nan_rewards: str = "mask"

    def rollouts(self, card: MethodCard | None = None, **replaced: Any) -> ap.Rollouts:
        """With all columns, or with those of one method."""
        names = set(self.columns) if card is None else {c.name for c in card.columns}
        given = {name: value for name, value in self.columns.items() if name in names}
        given.setdefault("group_ids", self.columns["group_ids"])
        return ap.Rollouts.from_padded(
            self.mask, nan_rewards=self.nan_rewards, **{**given, **replaced}
        )


def random_mask(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Up to `turns` runs of 1 a row, with gaps between and padding after them."""
    mask = np.zeros((shape.rows, shape.width), dtype=np.int64)
    for row in range(shape.rows):
        cuts = np.sort(rng.choice(shape.width + 1, size=2 * shape.turns, replace=False))
        for start, end in cuts.reshape(-1, 2)[: int(rng.integers(1, max(shape.turns, 1) + 1))]:
            mask[row, start:end] = 1
        if shape.masked_rows and row % 3 == 1:
            mask[row] = 0
    return mask


def random_batch(seed: int, shape: Shape = Shape()) -> Batch:
    """A batch of that shape with every known column."""
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, shape)
    counts = [len(runs) for runs in runs_of(mask)]
    columns: dict[str, Any] = {
        "group_ids": [f"g{row // shape.size}" for row in range(shape.rows)],
    }
    for name, column in ap.columns().items():
        if name not in {"group_ids", *NODES_AS_ROWS}:
            # Each from a stream of its own, so that a new column changes no other.
            own = np.random.default_rng([seed, *name.encode()])
            columns[name] = _values(own, column, shape, counts)
    return Batch(mask, columns)


def runs_of(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Maximal runs of 1 in each row."""
    found = []
    for row in mask:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
        found.append([(int(a), int(b)) for a, b in edges.reshape(-1, 2)])
    return found


def _values(rng: np.random.Generator, column: Column, shape: Shape, counts: list[int]) -> Any:
    if column.kind in ("Float", "Reward", "Flag", "RewardMatrix"):
        return _numbers(rng, column, shape, counts)
    if column.level == "turn":
        return [[_text(rng, column) for _ in range(count)] for count in counts]
    return [_text(rng, column) for _ in range(shape.rows)]


def _numbers(rng: np.random.Generator, column: Column, shape: Shape, counts: list[int]) -> Any:
    def draw(size: Any) -> np.ndarray:
        if column.kind == "Flag":
            return rng.integers(0, 2, size).astype(shape.dtype)
        if column.kind == "Float":
            spread = rng.normal(size=size)
            # Log-probabilities are at most 0, squared probabilities within 0 and 1.
            return _in_range(column.name, spread).astype(shape.dtype)
        # Few distinct scores, so that ties and zero-variance groups occur.
        values = rng.integers(-2, 4, size) * 0.5 * shape.scale
        values = np.where(rng.random(size) < shape.nan_share, np.nan, values)
        return values.astype(shape.dtype)

    if column.kind == "RewardMatrix":
        return draw((shape.rows, 3))
    if column.level == "token":
        return draw((shape.rows, shape.width))
    if column.level == "turn":
        return [draw(count) for count in counts]
    return draw(shape.rows)


def _in_range(name: str, values: np.ndarray) -> np.ndarray:
    if "log_probs" in name:
        return -np.abs(values)
    return np.exp(-np.abs(values)) if "squared" in name or "weights" in name else values


def _text(rng: np.random.Generator, column: Column) -> Any:
    if "calls" in column.name:
        return CALL.format(rng.integers(3), rng.integers(2))
    word = str(rng.choice(WORDS))
    if column.kind == "TextList":
        return [str(rng.choice(WORDS)) for _ in range(int(rng.integers(0, 4)))]
    return f"<answer>{word}</answer>" if column.name == "texts" else word


def outputs(credit: ap.Credit) -> Mapping[str, np.ndarray]:
    """Every array of a result, by name."""
    parts = {**credit.values, **credit.extras}
    found = {name: np.asarray(values) for name, (_, values) in parts.items()}
    return {**found, "tokens": credit.tokens()}
