"""The leaves of a search as states of an answer that a model writes step by step.

Depends on `requests`, `tree` and `errors`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apportion.errors import EvaluatorError, InputError, OptionError
from apportion.evaluators.requests import PRIORS, Answer, Model, Request, Step, priors, seeds
from apportion.tree import Leaves, Search

PATIENCE = 3
"""Batches without any answer after which a search that bears failures ends all the same."""


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
        return asyncio.run(self.evaluate(leaves))

    async def evaluate(self, leaves: Leaves) -> dict[str, Any]:
        """Evaluate; the first error of any leaf is raised."""
        found = await self._states(leaves)
        for state in found:
            if isinstance(state, EvaluatorError):
                raise state
        return self._keep(leaves, [state for state in found if isinstance(state, State)])

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
        """Search until the budgets are spent; how many leaves failed.

        Each batch is answered before the next is asked, so that results do not depend on
        the order in which answers come.

        Args:
            search: a search with a tree for each prompt.
            batch_size: leaves asked for at once.
            per_tree: as in `Search.select`.
            on_error: `"raise"` gives a batch back and raises the first `EvaluatorError`
                in it; `"fail"` gives back the leaves that had one and goes on, as long as
                one of three batches in a row is answered in part.
            tick: called after every batch with the simulations done in all trees.
        """
        if on_error not in ("raise", "fail"):
            raise OptionError(f"run: option on_error: got {on_error!r}, expected 'raise' or 'fail'")
        failed, lost = 0, 0
        async with AsyncExitStack() as stack:
            if isinstance(self.model, AbstractAsyncContextManager):
                await stack.enter_async_context(self.model)
            while leaves := search.select(batch_size, per_tree=per_tree):
                try:
                    found = await self._states(leaves)
                except BaseException:
                    search.fail(leaves)
                    raise
                errors = [state for state in found if isinstance(state, EvaluatorError)]
                bad = np.array([isinstance(state, EvaluatorError) for state in found])
                if errors and on_error == "raise":
                    search.fail(leaves)
                    raise errors[0]
                if errors:
                    search.fail(leaves[bad])
                    failed += len(errors)
                answered = leaves[~bad]
                states = [state for state in found if isinstance(state, State)]
                search.expand(answered, **self._keep(answered, states))
                lost = 0 if states else lost + 1
                if lost == PATIENCE:
                    what = f"{PATIENCE} batches in a row without an answer, the last: {errors[-1]}"
                    raise EvaluatorError(what) from errors[-1]
                if tick is not None:
                    tick(int(search.simulations.sum()))
        return failed

    async def _states(self, leaves: Leaves) -> list[State | EvaluatorError]:
        """What was found at each leaf."""
        states, requests, owners = self._ask(leaves)
        answers = self.model.answer(requests) if requests else []
        if inspect.isawaitable(answers):
            answers = await answers
        if len(answers) != len(requests):
            raise EvaluatorError(f"model: got {len(answers)} answers to {len(requests)} requests")
        mine: list[list[tuple[Request, Answer]]] = [[] for _ in states]
        for request, row, answer in zip(requests, owners, answers, strict=True):
            mine[row].append((request, answer))
        found: list[State | EvaluatorError] = []
        for tree, state, told in zip(leaves.tree.tolist(), states, mine, strict=True):
            try:
                found.append(self._fill(tree, state, told))
            except EvaluatorError as error:
                found.append(error)
        return found

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

    def _fill(self, tree: int, state: State, told: Sequence[tuple[Request, Answer]]) -> State:
        """Write answers into a state, and its value."""
        for request, answer in told:
            if answer.error is not None:
                raise answer.error
            if request.kind == "expand":
                state.children = _distinct(answer.steps)
            elif request.kind == "rollout":
                if not answer.steps:
                    raise EvaluatorError(f"model: no rollout for tree {tree}")
                texts = [state.text + rollout.text for rollout in answer.steps]
                state.rollouts = answer.steps
                state.scores = tuple(self._score(tree, text) for text in texts)
                state.value = float(np.mean(state.scores))
            else:
                if answer.value is None or not math.isfinite(answer.value):
                    raise EvaluatorError(f"model: got value {answer.value}, expected a number")
                state.value = float(answer.value)
        if state.steps and state.steps[-1].done:
            state.terminal, state.value = True, self._score(tree, state.text)
        return state

    def _keep(self, leaves: Leaves, states: list[State]) -> dict[str, Any]:
        """Remember states under their nodes; what `Search.expand` is told of them."""
        places = zip(leaves.tree.tolist(), leaves.node.tolist(), strict=True)
        self.states.update(zip(places, states, strict=True))
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


def _distinct(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Each text once, the first of it; an end and a step that goes on are not the same."""
    found: dict[tuple[str, bool], Step] = {}
    for step in steps:
        found.setdefault((step.text, step.done), step)
    return tuple(found.values())
