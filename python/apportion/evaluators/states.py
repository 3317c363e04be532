"""What the nodes of a search over answers stand for. Depends on `requests` and `errors`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apportion.errors import EvaluatorError
from apportion.evaluators.requests import Answer, Request, Step

END = 256
"""Ends an answer whose tokens are its bytes."""


def span(step: Step) -> tuple[int, ...]:
    """A step's tokens as a search is told them; its bytes where it has none."""
    return step.tokens or (*step.text.encode(), *([END] if step.done else []))


def span_log_probs(step: Step) -> tuple[float, ...]:
    """Log-probs of `span(step)`, empty where unknown; of bytes the first carries them all."""
    if step.tokens or not step.log_probs:
        return step.log_probs
    return (math.fsum(step.log_probs), *[0.0] * (len(span(step)) - 1))


def step_of_bytes(tokens: Sequence[int]) -> Step:
    """The step that `span` made these tokens of, where it had none of its own."""
    text = bytes(token for token in tokens if token < END).decode("utf-8", "replace")
    return Step(text, done=END in tokens)


def check(steps: Sequence[Step]) -> None:
    """Refuse log-probs that a search could not take."""
    for step in steps:
        count = len(step.log_probs)
        if step.tokens and count not in (0, len(step.tokens)):
            raise EvaluatorError(f"model: got {count} log-probs of {len(step.tokens)} tokens")
        for log_prob in step.log_probs:
            if not -math.inf < log_prob <= 0:
                raise EvaluatorError(f"model: got log-prob {log_prob}, expected at most 0")
        if step.log_probs and not span(step):
            raise EvaluatorError("model: got log-probs of a step without text or end")


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
    def all_scores(self) -> tuple[float, ...]:
        """Scores of its rollouts, or of the answer where that ends here."""
        return (self.value,) if self.terminal else self.scores

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of the answer so far, as a search is told them."""
        return tuple(token for step in self.steps for token in span(step))


def after(above: State, tokens: tuple[int, ...], read: Callable[[tuple[int, ...]], Step]) -> Step:
    """Tokens after a state as a step, its text being what it adds to that of the state."""
    whole = read((*above.tokens, *tokens)).text
    return replace(read(tokens), text=whole[len(above.text) :])


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
    heard: bool = False
    """Whether the model has answered anything of it this time."""

    def fill(self, answers: Sequence[Answer], score: Callable[[int, str], float]) -> None:
        """Write the answers to its requests into the state, and its value.

        `score(tree, text)` is that of a whole answer.

        Raises:
            EvaluatorError: one of the answers is an error, or cannot be taken.
        """
        state = self.state
        for request, answer in zip(self.requests, answers, strict=True):
            if answer.error is not None:
                raise answer.error
            check(answer.steps)
            if request.kind == "expand":
                self._propose(answer.steps)
            elif request.kind == "rollout":
                self._roll_out(answer.steps, score)
            elif answer.value is None or not math.isfinite(answer.value):
                raise EvaluatorError(f"model: got value {answer.value}, expected a number")
            else:
                state.value = float(answer.value)
        if state.done or math.isnan(state.value):  # an end, or verified as if it were one
            state.terminal, state.value = state.done, score(self.tree, state.text)

    def _propose(self, steps: Sequence[Step]) -> None:
        state = self.state
        new = distinct(steps, [child.steps[-1] for child in state.children])
        self.children = tuple(State((*state.steps, step)) for step in new)
        state.children = (*state.children, *self.children)

    def _roll_out(self, steps: Sequence[Step], score: Callable[[int, str], float]) -> None:
        state = self.state
        if not steps:
            raise EvaluatorError(f"model: no rollout for tree {self.tree}")
        self.rollouts = tuple(steps)
        self.scores = tuple(score(self.tree, state.text + step.text) for step in steps)
        state.rollouts = (*state.rollouts, *self.rollouts)
        state.scores = (*state.scores, *self.scores)
        state.value = float(np.mean(state.scores))


def distinct(steps: Sequence[Step], known: Sequence[Step]) -> tuple[Step, ...]:
    """Each text once and only if new; an end and a step that goes on are not the same."""
    seen = {(step.text, step.done) for step in known}
    found: dict[tuple[str, bool], Step] = {}
    for step in steps:
        if (step.text, step.done) not in seen:
            found.setdefault((step.text, step.done), step)
    return tuple(found.values())
