"""What a search asks a language model, and what the model answers.

Depends on `errors`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from apportion.errors import EvaluatorError, InputError, OptionError

KINDS = ("expand", "rollout", "score", "value")
PRIORS = ("mean", "sum", "equal")


@dataclass(frozen=True)
class Step:
    """A piece of an answer: one step, or a rollout to the end.

    Args:
        text: what it reads.
        tokens: its tokens, the end-of-text token included; empty where unknown.
        log_probs: of each token under the model at temperature 1, before any filter;
            empty where unknown.
        done: the answer ends here.
    """

    text: str
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    done: bool = False


@dataclass(frozen=True)
class Request:
    """One question about the state after `steps` of the answer to `prompt`.

    `kind` is one of

    - `"expand"`: `count` next steps,
    - `"rollout"`: `count` ways to the end of the answer,
    - `"score"`: tokens and log-probs of each of `candidates` as the next step,
    - `"value"`: how good the state is.

    Steps and rollouts have at most `max_tokens` tokens, or as many as the model's own
    limits allow. `seeds` has one number for each of `count`: what is sampled under a seed does not
    depend on what else is asked.
    """

    kind: str
    prompt: str
    steps: tuple[Step, ...] = ()
    count: int = 1
    seeds: tuple[int, ...] = ()
    candidates: tuple[str, ...] = ()
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuses what no model can answer."""
        if self.kind not in KINDS:
            expected = ", ".join(KINDS)
            raise OptionError(f"kind: got {self.kind!r}, expected one of {expected}")
        if self.kind in ("expand", "rollout") and len(self.seeds) != self.count:
            raise InputError(f"seeds: got {len(self.seeds)}, expected {self.count}, one a sample")

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(step.text for step in self.steps)


@dataclass(frozen=True)
class Answer:
    """Steps asked for, which may be fewer than `count`, or the value asked for, or an error."""

    steps: tuple[Step, ...] = ()
    value: float | None = None
    error: EvaluatorError | None = None


class Model(Protocol):
    """Answers requests, one answer each in their order.

    A model that gives its steps tokens also has `step(tokens)`, which makes a step of any
    tokens: of rollouts that the search cuts, and of what it kept when it is resumed.
    """

    def answer(self, requests: Sequence[Request], /) -> Any:
        """A list of `Answer`, or an awaitable of one."""


def seeds(base: int, name: str, path: Sequence[int], kind: str, count: int) -> tuple[int, ...]:
    """Seeds below 2^31 that depend on the arguments alone.

    A state is named by its problem and its tokens, so that its samples do not depend on
    when it was reached, or on which machine.
    """
    key = f"{base}/{name}/{'.'.join(map(str, path))}/{kind}".encode()
    words = np.frombuffer(hashlib.shake_128(key).digest(4 * count), dtype="<u4")
    return tuple(int(word) >> 1 for word in words)


def priors(steps: Sequence[Step], how: str = "mean") -> list[float]:
    """Probabilities of steps from their log-probs, see `StepEvaluator`; they sum to 1."""
    if not steps:
        return []
    if how == "equal" or not all(step.log_probs for step in steps):
        return [1 / len(steps)] * len(steps)
    sums = np.array([math.fsum(step.log_probs) for step in steps])
    lengths = np.array([len(step.log_probs) for step in steps]) if how == "mean" else 1
    weights = np.exp(sums / lengths - np.max(sums / lengths))
    return [float(w) for w in weights / weights.sum()]
