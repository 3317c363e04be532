"""The leaves of a search as states of an answer that a model writes step by step.

Depends on `loop`, `requests`, `states`, `table`, `search` and `errors`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from apportion.errors import EvaluatorError, InputError, OptionError
from apportion.evaluators.loop import run_batches
from apportion.evaluators.requests import PRIORS, Answer, Model, Request, Step, seeds
from apportion.evaluators.states import Found, State, after, step_of_bytes
from apportion.evaluators.table import Table, node_texts, states_of, step_rows, told
from apportion.search import KINDS, Leaves, Search


@dataclass(eq=False)
class StepEvaluator:
    """Evaluates the leaves of a `Search` over answers that a model writes step by step.

    A leaf whose answer has ended is terminal, with the verifier's score of it as its
    value. Another gets `children` proposed steps, equal ones merged, with priors from
    their log-probs; its value is the mean score of `rollouts` ways to the end
    (Monte Carlo, Wang et al. 2024, Math-Shepherd, eq. 3), or with `rollouts=0` what the
    model says to a request of kind `"value"`. Requests of a search for values, rollouts,
    probes, verdicts and partial children are answered likewise, as far as they go.

    The search is told the tokens of steps and rollouts. For a model that does not know
    them they are the text's bytes, and 256 where the answer ends.

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
        child_scores: evaluate children as soon as they are proposed, as rules want it that
            compare children by their values (beams, branching, AlphaMath).
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
    child_scores: bool = False
    states: dict[tuple[int, int], State] = field(default_factory=dict, init=False)
    _answers: dict[Request, Answer] = field(default_factory=dict, init=False, repr=False)
    """To requests of leaves that are not kept yet, as another of theirs failed."""

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
        for one in found:
            if one.error is not None:
                raise one.error
        return self.keep(leaves, found)

    async def states_of(self, leaves: Leaves) -> list[Found]:
        """What the model says to each leaf, or the error; no state is remembered yet.

        Single answers are, so that a leaf of which a part failed is asked for that alone.
        """
        if leaves.judged and not self.child_scores:
            raise OptionError(
                "child_scores: got False (on the command line no --child-scores), expected True: "
                "the search's rule compares steps by the values that are told with them"
            )
        found = self._ask(leaves)
        await self._answer(found)
        if self.child_scores:
            below = [
                [Found(one.tree, state, self._value_of(one.tree, state)) for state in one.children]
                if one.error is None
                else []
                for one in found
            ]
            await self._answer([child for children in below for child in children])
            for one, children in zip(found, below, strict=True):
                one.error = next((c.error for c in children if c.error), one.error)
                one.heard |= any(child.heard for child in children)
                one.requests += [request for child in children for request in child.requests]
        return found

    async def _answer(self, found: Sequence[Found]) -> None:
        """Ask the model all at once; fill in what it says, or the error."""
        requests = [r for one in found for r in one.requests if r not in self._answers]
        answers = self.model.answer(requests) if requests else []
        if inspect.isawaitable(answers):
            answers = await answers
        if len(answers) != len(requests):
            raise EvaluatorError(f"model: got {len(answers)} answers to {len(requests)} requests")
        if any(step.tokens for answer in answers for step in answer.steps):
            self._check_reads_tokens()
        left = iter(answers)
        said = [[self._answers.get(r) or next(left) for r in one.requests] for one in found]
        for one, answers in zip(found, said, strict=True):
            self._fill(one, answers)

    def _fill(self, one: Found, answers: Sequence[Answer]) -> None:
        """Write answers into a leaf; those that are no errors wait for the others."""
        good = {
            request: answer
            for request, answer in zip(one.requests, answers, strict=True)
            if answer.error is None
        }
        one.heard = any(request not in self._answers for request in good)
        self._answers.update(good)
        try:
            one.fill(answers, self._score)
        except EvaluatorError as error:
            one.error = error
            if len(good) == len(answers):  # it is in what was said: that is asked again
                one.heard = False
                self._forget(one)

    def _forget(self, one: Found) -> None:
        for request in one.requests:
            self._answers.pop(request, None)

    def _check_reads_tokens(self) -> None:
        if not hasattr(self.model, "step"):
            raise OptionError(
                "model: got steps with tokens from a model without a method `step`, expected "
                "`step(tokens)`, which makes a step of tokens that the search cut or kept"
            )

    def keep(self, leaves: Leaves, found: list[Found]) -> dict[str, Any]:
        """Remember states under their nodes; what `Search.expand` is told of them."""
        places = zip(leaves.tree.tolist(), leaves.node.tolist(), strict=True)
        self.states.update(zip(places, (one.state for one in found), strict=True))
        for one in found:
            self._forget(one)
        return told(found, self.prior, self.child_scores)

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
                in it; `"fail"` counts the leaves that had one as failed and goes on. Given
                back without blame are leaves of which the model answered a part, which is
                not asked for again, and all of a batch of which it answered nothing, but
                for a leaf that failed before the model's last answer too, and for one that
                is left alone. The twentieth such batch in a row ends the search in an
                error; so does its end if nothing was answered.
            tick: called after every batch with the simulations done in all trees.

        Raises:
            EvaluatorError: see `on_error`; leaves that it concerns are given back.
            OptionError: the search's rule needs `child_scores`; nothing was asked.

        Warns:
            RuntimeWarning: as in `Search.run`.
        """
        return await run_batches(self, search, batch_size, per_tree, on_error, tick)

    def _ask(self, leaves: Leaves) -> list[Found]:
        """Each leaf's state and what is to be asked about it."""
        (flat, offsets), edges = leaves.tokens(), leaves.edge_lengths()
        names = ("tree", "node", "parent", "action", "depth", "kind", "want", "length")
        columns = [getattr(leaves, name).tolist() for name in names]
        found = []
        for i, (tree, node, parent, action, depth, kind, want, length) in enumerate(
            zip(*columns, strict=True)
        ):
            known = self.states.get((tree, node))
            tokens = tuple(flat[offsets[i] : offsets[i + 1]].tolist())
            if known is None:
                state = self._new(tree, parent, action, tokens, int(edges[i]))
            else:
                state = replace(known)
            requests = self._requests(tree, state, KINDS[kind], want, length or None, depth)
            found.append(Found(tree, state, requests))
        return found

    def _new(
        self, tree: int, parent: int, action: int, tokens: tuple[int, ...], edge: int
    ) -> State:
        """The state of a node that was not seen yet, a child or cut out of a rollout."""
        if parent < 0:
            return State()
        before = tokens[: len(tokens) - edge]
        above = self.states.get((tree, parent))
        if above is None:
            above = State((self.step_of(before),) if before else ())
        if action < len(above.children) and above.children[action].tokens == tokens:
            return replace(above.children[action])
        return State((*above.steps, after(above, tokens[len(before) :], self.step_of)))

    def step_of(self, tokens: tuple[int, ...]) -> Step:
        """Tokens that a search was told, as a step."""
        if hasattr(self.model, "step"):
            step: Step = self.model.step(tokens)
            return step
        return step_of_bytes(tokens)

    def _requests(
        self, tree: int, state: State, kind: str, want: int, length: int | None, depth: int
    ) -> list[Request]:
        if state.terminal or kind == "verify" or state.done:
            return []
        requests = []
        if kind in ("expand", "partial") and depth < self.max_steps:
            count = want or self.children
            requests.append(self._request(tree, state, "expand", count, length))
        if kind in ("rollout", "probe"):
            count = want or self.rollouts or 1
            return [self._request(tree, state, "rollout", count, length)]
        return [*requests, *self._value_of(tree, state)]

    def _value_of(self, tree: int, state: State) -> list[Request]:
        """What is to be asked for a state's value."""
        if state.done or not math.isnan(state.value):
            return []
        kind = "rollout" if self.rollouts else "value"
        return [self._request(tree, state, kind, self.rollouts, None)]

    def _request(
        self, tree: int, state: State, kind: str, count: int, length: int | None
    ) -> Request:
        prompt = self.prompts[tree]
        name = prompt if self.names is None else self.names[tree]
        # What was sampled here before is not sampled again.
        before = len(state.children if kind == "expand" else state.scores)
        keys = seeds(self.seed, name, (*state.tokens, -before), kind, count)
        return Request(kind, prompt, state.steps, count, keys, max_tokens=length)

    def _score(self, tree: int, text: str) -> float:
        score = float(self.verify(tree, text))
        if not math.isfinite(score):
            raise EvaluatorError(f"verify: got {score} for tree {tree}, expected a finite number")
        return score

    def texts(self, search: Search) -> dict[tuple[int, int], str]:
        """What nodes stand for, for pictures: the prompt at a root, else the step.

        Steps that were proposed and not evaluated yet are among them.
        """
        return node_texts(self.states, search.nodes(), self.prompts)

    def steps(self, search: Search, tree: int) -> list[dict[str, Any]]:
        """The evaluated nodes of a tree, a parent before its children, one dictionary each.

        `text`, `tokens` and `log_prob` are those of the step into the node; the search
        keeps log-probs in float32. `scores` are
        those of its own rollouts, or of the answer where that ends here; `soft` is their
        mean, which is the Monte Carlo value, `hard` whether any is above 0 (the two
        estimates of Math-Shepherd, eq. 3 and 4). `q` is the search's mean over the subtree.
        """
        return step_rows(self.states, Table(search), tree)

    def restore(self, search: Search) -> None:
        """Take over what a search was told before, so that it goes on as it would have.

        For a search of `Search.resume` and an evaluator with the same options.
        """
        table = Table(search)
        for tree in range(len(self.prompts)):
            self.states.update(states_of(table, tree, self.step_of))
