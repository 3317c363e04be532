"""What a search asks a language model, and what the model answers.

`StepEvaluator` stands between a `Search`, which knows nodes by number, and a model,
which knows text: leaves become requests, answers become values, priors and children.
A model is anything with `answer(requests)`, plain or async; those of
`apportion.integrations.transformers` and `apportion.integrations.openai` are two.
Depends on `tree` and `errors`; torch and httpx stay with the models.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from apportion.errors import EvaluatorError, InputError, OptionError
from apportion.tree import Leaves, Search

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

    `seeds` has one number for each of `count`: what is sampled under a seed does not
    depend on what else is asked.
    """

    kind: str
    prompt: str
    steps: tuple[Step, ...] = ()
    count: int = 1
    seeds: tuple[int, ...] = ()
    candidates: tuple[str, ...] = ()

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
    """Steps asked for, which may be fewer than `count`, or the value asked for."""

    steps: tuple[Step, ...] = ()
    value: float | None = None


class Model(Protocol):
    """Answers requests, one answer each in their order."""

    def answer(self, requests: Sequence[Request], /) -> Any:
        """A list of `Answer`, or an awaitable of one."""


def seeds(base: int, name: str, path: Sequence[int], kind: str, count: int) -> tuple[int, ...]:
    """Seeds below 2^31 that depend on the arguments alone.

    A state is named by its problem and the children taken to it, so that its samples
    do not depend on when it was reached, or on which machine.
    """
    key = f"{base}/{name}/{'.'.join(map(str, path))}/{kind}".encode()
    words = np.frombuffer(hashlib.shake_128(key).digest(4 * count), dtype="<u4")
    return tuple(int(word) >> 1 for word in words)


@dataclass
class State:
    """What a node stands for, and what was seen from it."""

    steps: tuple[Step, ...]
    path: tuple[int, ...]
    children: tuple[Step, ...] = ()
    rollouts: tuple[Step, ...] = ()
    scores: tuple[float, ...] = ()
    terminal: bool = False
    value: float = math.nan

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(step.text for step in self.steps)


@dataclass(eq=False)
class StepEvaluator:
    """Evaluates the leaves of a `Search` over answers that a model writes step by step.

    A leaf whose answer has ended is terminal, with the verifier's score of it as its
    value. Another gets `children` proposed steps, equal ones merged, with priors from
    their log-probs; its value is the mean score of `rollouts` ways to the end
    (Monte Carlo, Wang et al. 2024, Math-Shepherd, eq. 3), or with `rollouts=0` what the
    model says to a request of kind `"value"`.

    Args:
        model: see `Model`.
        prompts: one for each tree.
        verify: `verify(tree, answer)`, the score of a whole answer, finite.
        names: of the problems, by which their random numbers are keyed; default the
            prompts.
        children: steps to propose at a leaf.
        rollouts: ways to the end from a leaf.
        max_steps: answers with so many steps are not continued.
        prior: a child's prior is proportional to `exp` of the `"mean"` log-prob of its
            tokens (AlphaMath), to that of the `"sum"`, or `"equal"`. Without log-probs
            priors are equal.
        seed: key of all samples.
    """

    model: Model
    prompts: Sequence[str]
    verify: Callable[[int, str], float]
    names: Sequence[str] | None = None
    children: int = 4
    rollouts: int = 4
    max_steps: int = 16
    prior: str = "mean"
    seed: int = 0
    states: dict[tuple[int, int], State] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Checks the options."""
        for name, least in (("children", 1), ("rollouts", 0), ("max_steps", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name}: got {value!r}, expected an integer of at least {least}")
        if self.prior not in PRIORS:
            raise OptionError(f"prior: got {self.prior!r}, expected one of {', '.join(PRIORS)}")
        if self.names is not None and len(self.names) != len(self.prompts):
            raise InputError(f"names: got {len(self.names)}, expected {len(self.prompts)}")

    def __call__(self, leaves: Leaves) -> dict[str, Any]:
        """Evaluate, for `Search.run`; an async model is run to its end."""
        states, requests, owners = self._ask(leaves)
        answers = self.model.answer(requests)
        if inspect.isawaitable(answers):
            answers = asyncio.run(_awaited(answers))
        return self._tell(leaves, states, requests, owners, answers)

    async def evaluate(self, leaves: Leaves) -> dict[str, Any]:
        """Evaluate with an async model."""
        states, requests, owners = self._ask(leaves)
        answers = self.model.answer(requests)
        if inspect.isawaitable(answers):
            answers = await answers
        return self._tell(leaves, states, requests, owners, answers)

    def _ask(self, leaves: Leaves) -> tuple[list[State], list[Request], list[int]]:
        """The leaves' states, requests, and which leaf each request is for."""
        states, requests, owners = [], [], []
        where = zip(*(x.tolist() for x in (leaves.tree, leaves.parent, leaves.action)), strict=True)
        for row, (tree, parent, action) in enumerate(where):
            states.append(self._state(tree, parent, action))
            asked = self._requests(tree, states[-1])
            requests += asked
            owners += [row] * len(asked)
        return states, requests, owners

    def _state(self, tree: int, parent: int, action: int) -> State:
        if parent < 0:
            return State((), ())
        above = self.states[tree, parent]
        return State((*above.steps, above.children[action]), (*above.path, action))

    def _requests(self, tree: int, state: State) -> list[Request]:
        if state.steps and state.steps[-1].done:
            return []
        prompt = self.prompts[tree]
        name = prompt if self.names is None else self.names[tree]
        wanted = [("rollout", self.rollouts)] if self.rollouts else [("value", 0)]
        if len(state.steps) < self.max_steps:
            wanted.insert(0, ("expand", self.children))
        return [
            Request(kind, prompt, state.steps, n, seeds(self.seed, name, state.path, kind, n))
            for kind, n in wanted
        ]

    def _tell(
        self,
        leaves: Leaves,
        states: list[State],
        requests: list[Request],
        owners: list[int],
        answers: Any,
    ) -> dict[str, Any]:
        """Values, priors and ends; what was seen is kept once all of it is in order."""
        if len(answers) != len(requests):
            raise EvaluatorError(f"model: got {len(answers)} answers to {len(requests)} requests")
        trees, nodes = leaves.tree.tolist(), leaves.node.tolist()
        for request, row, answer in zip(requests, owners, answers, strict=True):
            state = states[row]
            if request.kind == "expand":
                state.children = _distinct(answer.steps)
            elif request.kind == "rollout":
                state.rollouts = answer.steps
                state.scores = tuple(
                    self._score(trees[row], state.text + rollout.text) for rollout in answer.steps
                )
                if not state.scores:
                    raise EvaluatorError(f"model: no rollout for node {nodes[row]}")
                state.value = float(np.mean(state.scores))
            else:
                if answer.value is None or not math.isfinite(answer.value):
                    raise EvaluatorError(f"model: got value {answer.value}, expected a number")
                state.value = float(answer.value)
        for tree, state in zip(trees, states, strict=True):
            if state.steps and state.steps[-1].done:
                state.terminal, state.value = True, self._score(tree, state.text)
        self.states.update(zip(zip(trees, nodes, strict=True), states, strict=True))
        return {
            "values": [state.value for state in states],
            "priors": [priors(state.children, self.prior) for state in states],
            "terminal": [state.terminal for state in states],
        }

    def _score(self, tree: int, text: str) -> float:
        score = float(self.verify(tree, text))
        if not math.isfinite(score):
            raise EvaluatorError(f"verify: got {score} for tree {tree}, expected a finite number")
        return score

    def steps(self, search: Search, tree: int) -> list[dict[str, Any]]:
        """The evaluated nodes of a tree, a parent before its children, one dictionary each.

        `text`, `tokens` and `log_prob` are those of the step into the node. `scores` are
        those of its own rollouts, or of the answer where that ends here; `soft` is their
        mean, which is the Monte Carlo value, `hard` whether any is above 0 (the two
        estimates of Math-Shepherd, eq. 3 and 4). `q` is the search's mean over the subtree.
        """
        table = search.nodes()
        first, last = table.offsets[tree : tree + 2].tolist()
        rows = []
        for node in range(last - first):
            state = self.states.get((tree, node))
            if state is None:
                continue
            row = first + node
            step = state.steps[-1] if state.steps else Step("")
            scores = (state.value,) if state.terminal else state.scores
            rows.append(
                {
                    "node": node,
                    "parent": int(table.parent[row]),
                    "depth": len(state.steps),
                    "text": step.text,
                    "tokens": list(step.tokens),
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


def _distinct(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Each text once, the first of it; an end and a step that goes on are not the same."""
    found: dict[tuple[str, bool], Step] = {}
    for step in steps:
        found.setdefault((step.text, step.done), step)
    return tuple(found.values())


async def _awaited(answers: Awaitable[Any]) -> Any:
    return await answers
