"""What the nodes of a search over answers stand for. Depends on `requests` and `errors`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from apportion.errors import EvaluatorError
from apportion.evaluators.requests import Request, Step

END = 256
"""Ends an answer whose tokens are its bytes."""


def span(step: Step) -> tuple[int, ...]:
    """A step's tokens as a search is told them; its bytes where it has none."""
    return step.tokens or (*step.text.encode(), *([END] if step.done else []))


@dataclass
class State:
    """What a node stands for, and what was seen from it."""

    steps: tuple[Step, ...] = ()
    children: tuple[State, ...] = ()
    rollouts: tuple[Step, ...] = ()
    scores: tuple[float, ...] = ()
    terminal: bool = False
    value: float = math.nan

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(step.text for step in self.steps)

    @property
    def done(self) -> bool:
        """Whether the answer has ended."""
        return bool(self.steps) and self.steps[-1].done

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of the answer so far, as a search is told them."""
        return tuple(token for step in self.steps for token in span(step))


@dataclass(eq=False)
class Found:
    """A state, what is asked about it, and what that brings."""

    tree: int
    state: State
    requests: list[Request]
    children: tuple[State, ...] = ()
    rollouts: tuple[Step, ...] = ()
    scores: tuple[float, ...] = ()
    error: EvaluatorError | None = None


def distinct(steps: Sequence[Step], known: Sequence[Step]) -> tuple[Step, ...]:
    """Each text once and only if new; an end and a step that goes on are not the same."""
    seen = {(step.text, step.done) for step in known}
    found: dict[tuple[str, bool], Step] = {}
    for step in steps:
        if (step.text, step.done) not in seen:
            found.setdefault((step.text, step.done), step)
    return tuple(found.values())
