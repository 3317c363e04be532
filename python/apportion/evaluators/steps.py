"""The leaves of a search as states of an answer that a model writes step by step.

Depends on `loop`, `requests`, `tree` and `errors`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from apportion.errors import EvaluatorError, InputError, OptionError
from apportion.evaluators.loop import run_batches
from apportion.evaluators.requests import PRIORS, Answer, Model, Request, Step, priors, seeds
from apportion.tree import KINDS, Leaves, Search


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
class Found:
    """A leaf's state, what is asked about it, and what that brings."""

    tree: int
    state: State
    requests: list[Request]
    children: tuple[Step, ...] = ()
    rollouts: tuple[Step, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(eq=False)
class StepEvaluator:
    """Evaluates the leaves of a `Search` over answers that a model writes step by step.

    A leaf whose answer has ended is terminal, with the verifier's score of it as its
    value. Another gets `children` proposed steps, equal ones merged, with priors from
    their log-probs; its value is the mean score of `rollouts` ways to the end
    (Monte Carlo, Wang et al. 2024, Math-Shepherd, eq. 3), or with `rollouts=0` what the
    model says to a request of kind `"value"`. Requests of a search for values, rollouts,
    probes, verdicts and partial children are answered likewise, as far as they go.

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
        return asyncio.run(self.evaluate(leaves))

    async def evaluate(self, leaves: Leaves) -> dict[str, Any]:
        """Evaluate, for `Search.arun`; the first error of any leaf is raised."""
        found = await self.states_of(leaves)
        for result in found:
            if isinstance(result, EvaluatorError):
                raise result
        return self.keep(leaves, [result for result in found if isinstance(result, Found)])

    async def states_of(self, leaves: Leaves) -> list[Found | EvaluatorError]:
        """What the model says to each leaf; nothing is remembered yet."""
        asked = self._ask(leaves)
        requests = [request for one in asked for request in one.requests]
        answers = self.model.answer(requests) if requests else []
        if inspect.isawaitable(answers):
            answers = await answers
        if len(answers) != len(requests):
            raise EvaluatorError(f"model: got {len(answers)} answers to {len(requests)} requests")
        left = iter(answers)
        found: list[Found | EvaluatorError] = []
        for one in asked:
            told = [(request, next(left)) for request in one.requests]
            try:
                self._fill(one, told)
                found.append(one)
            except EvaluatorError as error:
                found.append(error)
        return found

    def keep(self, leaves: Leaves, found: list[Found]) -> dict[str, Any]:
        """Remember states under their nodes; what `Search.expand` is told of them."""
        places = zip(leaves.tree.tolist(), leaves.node.tolist(), strict=True)
        self.states.update(zip(places, (one.state for one in found), strict=True))
        children, rollouts = [one.children for one in found], [one.rollouts for one in found]
        told: dict[str, Any] = {
            "values": [one.state.value for one in found],
            "priors": [priors(steps, self.prior) for steps in children],
            "terminal": [one.state.terminal for one in found],
            "rollouts": [one.scores for one in found],
        }
        for name, rows in (("tokens", children), ("rollout_tokens", rollouts)):
            if any(step.tokens for steps in rows for step in steps):
                told[name] = [[step.tokens for step in steps] for steps in rows]
        return told

    def run(self, search: Search, **how: Any) -> int:
        """As `arun`, from code that is not async."""
        return asyncio.run(self.arun(search, **how))

    async def arun(
        self,
        search: Search,
        *,
        batch_size: int = 64,
        per_tree: int | None = None,
        on_error: str = "raise",
        tick: Callable[[int], None] | None = None,
    ) -> int:
        """Search until the budgets are spent; how many evaluations failed.

        Unlike `Search.arun` it gives back single leaves of a batch, and ends when nothing
        answers any more. Neighbours of a batch share prefixes.

        Args:
            search: a search with a tree for each prompt.
            batch_size: leaves asked for at once.
            per_tree: as in `Search.select`.
            on_error: `"raise"` gives a batch back and raises the first `EvaluatorError`
                in it; `"fail"` counts the leaves that had one as failed and goes on, as
                long as one of three batches in a row is answered in part.
            tick: called after every batch with the simulations done in all trees.

        Raises:
            EvaluatorError: see `on_error`; leaves that it concerns are given back.
        """
        return await run_batches(self, search, batch_size, per_tree, on_error, tick)

    def _ask(self, leaves: Leaves) -> list[Found]:
        """Each leaf's state and what is to be asked about it."""
        columns = (leaves.tree, leaves.node, leaves.parent, leaves.action)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        asks = zip(leaves.kind.tolist(), leaves.want.tolist(), leaves.length.tolist(), strict=True)
        found = []
        for i, ((tree, node, parent, action), (kind, want, length)) in enumerate(
            zip(rows, asks, strict=True)
        ):
            known = self.states.get((tree, node))
            state = replace(known) if known else self._new(tree, parent, action, leaves[i])
            requests = self._requests(tree, state, KINDS[kind], want, length or None)
            found.append(Found(tree, state, requests))
        return found

    def _new(self, tree: int, parent: int, action: int, leaf: Leaves) -> State:
        """The state of a node that was not seen yet."""
        if parent < 0:
            return State((), ())
        above = self.states.get((tree, parent))
        if above is not None and action < len(above.children):
            return State((*above.steps, above.children[action]), (*above.path, action))
        # The search has made this node itself, or was begun elsewhere.
        tokens = tuple(leaf.tokens()[0].tolist())
        if not tokens or not hasattr(self.model, "step"):
            raise EvaluatorError(f"tree {tree}: a node without a text, and no tokens to read it of")
        return State((self.model.step(tokens),), tokens)

    def _requests(
        self, tree: int, state: State, kind: str, want: int, length: int | None
    ) -> list[Request]:
        if state.terminal or kind == "verify" or (state.steps and state.steps[-1].done):
            return []
        prompt = self.prompts[tree]
        name = prompt if self.names is None else self.names[tree]
        asks: list[tuple[str, int]] = []
        if kind in ("expand", "partial") and len(state.steps) < self.max_steps:
            asks.append(("expand", want or self.children))
        if kind in ("rollout", "probe"):
            asks.append(("rollout", want or self.rollouts or 1))
        elif not state.scores and self.rollouts:
            asks.append(("rollout", self.rollouts))
        elif math.isnan(state.value):
            asks.append(("value", 0))
        requests = []
        for ask, count in asks:
            # What was sampled here before is not sampled again.
            before = len(state.children if ask == "expand" else state.rollouts)
            path = (*state.path, -before) if before else state.path
            limit = length if ask == "expand" or kind in ("rollout", "probe") else None
            keys = seeds(self.seed, name, path, ask, count)
            requests.append(Request(ask, prompt, state.steps, count, keys, max_tokens=limit))
        return requests

    def _fill(self, found: Found, told: Sequence[tuple[Request, Answer]]) -> None:
        """Write answers into a state, and its value."""
        tree, state = found.tree, found.state
        for request, answer in told:
            if answer.error is not None:
                raise answer.error
            if request.kind == "expand":
                found.children = _distinct(answer.steps, state.children)
                state.children = (*state.children, *found.children)
            elif request.kind == "rollout":
                if not answer.steps:
                    raise EvaluatorError(f"model: no rollout for tree {tree}")
                texts = [state.text + rollout.text for rollout in answer.steps]
                found.rollouts = answer.steps
                found.scores = tuple(self._score(tree, text) for text in texts)
                state.rollouts = (*state.rollouts, *answer.steps)
                state.scores = (*state.scores, *found.scores)
                state.value = float(np.mean(state.scores))
            else:
                if answer.value is None or not math.isfinite(answer.value):
                    raise EvaluatorError(f"model: got value {answer.value}, expected a number")
                state.value = float(answer.value)
        done = bool(state.steps) and state.steps[-1].done
        if done or math.isnan(state.value):  # an end, or to be verified as if it were one
            state.terminal, state.value = done, self._score(tree, state.text)

    def _score(self, tree: int, text: str) -> float:
        score = float(self.verify(tree, text))
        if not math.isfinite(score):
            raise EvaluatorError(f"verify: got {score} for tree {tree}, expected a finite number")
        return score

    def texts(self) -> dict[tuple[int, int], str]:
        """What nodes stand for, for pictures: the prompt at a root, else the step."""
        return {
            (tree, node): state.steps[-1].text if state.steps else self.prompts[tree]
            for (tree, node), state in self.states.items()
        }

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


def _distinct(steps: Sequence[Step], known: Sequence[Step]) -> tuple[Step, ...]:
    """Each text once and only if new; an end and a step that goes on are not the same."""
    seen = {(step.text, step.done) for step in known}
    found: dict[tuple[str, bool], Step] = {}
    for step in steps:
        if (step.text, step.done) not in seen:
            found.setdefault((step.text, step.done), step)
    return tuple(found.values())
