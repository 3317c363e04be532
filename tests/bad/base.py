"""What wrong inputs are made of: the entry of the catalogue, right inputs to spoil, calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import apportion as ap

NAN, INF = float("nan"), float("inf")
MASK = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])  # 2, 1, 1, 1 turns
IDS = ["a", "a", "b", "b"]
SCORES = np.array([1.0, 0.0, 1.0, 1.0])
TURNS = [[0.0, 1.0], [0.5], [1.0], [0.0]]
TOKENS = np.zeros((4, 4))


@dataclass(frozen=True)
class Bad:
    """One wrong input."""

    what: str
    call: Callable[[], Any]
    error: type[Exception]
    says: tuple[str, ...]


def padded(mask: Any = MASK, **given: Any) -> ap.Rollouts:
    return ap.Rollouts.from_padded(mask, **{"group_ids": IDS, "outcome_rewards": SCORES, **given})


def grpo(mask: Any = MASK, **given: Any) -> ap.Credit:
    return ap.credit("grpo", padded(mask, **given))


def ragged(offsets: Any, **given: Any) -> Any:
    given.setdefault("outcome_rewards", np.zeros(max(np.size(offsets) - 1, 0)))
    rows = len(given["outcome_rewards"])
    rollouts = ap.Rollouts.from_ragged(offsets, **{"group_ids": np.zeros(rows, int), **given})
    return ap.credit("grpo", rollouts).advantages


def lists(**turn: Any) -> ap.Rollouts:
    return ap.Rollouts.from_lists([{"group": "g", "outcome": 1.0, "turns": [turn]}])


def gae(**given: Any) -> ap.Credit:
    columns = {"token_rewards": TOKENS, "values": TOKENS, **given}
    return ap.credit("gae", ap.Rollouts.from_padded(MASK, **columns))


def gigpo(**given: Any) -> ap.Credit:
    options = {k: given.pop(k) for k in list(given) if k in ("similarity", "anchor_mask")}
    columns = {"turn_rewards": TURNS, "anchors": [["x", "y"], ["x"], ["x"], ["y"]], **given}
    return ap.credit("gigpo", padded(**columns), **options)


def gdpo(**given: Any) -> ap.Credit:
    return ap.credit("gdpo", padded(**given))


def matchtir(calls: str) -> ap.Credit:
    nothing = [["", ""], [""], [""], [""]]
    given = [[nothing[0][0], calls], *nothing[1:]]
    rollouts = ap.Rollouts.from_padded(MASK, group_ids=IDS, tool_calls=given, gold_calls=[""] * 4)
    return ap.credit("matchtir", rollouts)


def read(part: str, call: Callable[..., Any], *args: Any, **given: Any) -> Any:
    """A part of what a call returns; parts are computed when they are read."""
    return getattr(call(*args, **given), part)


def tangled() -> list[Any]:
    """A list that holds itself."""
    own: list[Any] = []
    own.append(own)
    return own


def deep(levels: int) -> Any:
    nested: Any = ()
    for _ in range(levels):
        nested = (nested,)
    return nested


def at(array: np.ndarray, place: Any, value: Any) -> np.ndarray:
    changed = array.astype(np.float64)
    changed[place] = value
    return changed
