"""Evaluators that fail: what is asked again, what is given up, and what is said of it."""

from __future__ import annotations

import asyncio
import random
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.errors import EvaluatorError
from apportion.evaluators import Answer, Request, StepEvaluator
from search_answers import answer, conserved
from test_step_evaluator import Reader, score

GIVEN_UP = "ignore:search.*given up:RuntimeWarning"


def failing(rate: float, seed: int) -> Any:
    draw = random.Random(seed)

    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        if draw.random() < rate:
            raise TimeoutError("the server is busy")
        return answer(leaves)

    return evaluate


@pytest.mark.filterwarnings(GIVEN_UP)
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("roots", [1, 64])
def test_no_root_is_lost(rate: float, roots: int) -> None:
    """All roots are asked at once, and fail at once."""
    for seed in range(40):
        search = ap.Search(roots, 100, num_simulations=10)
        search.run(failing(rate, seed), batch_size=256, on_error="fail")
        conserved(search)
        nodes = search.nodes()
        assert nodes.children[nodes.offsets[:-1]].all(), "each root was answered"
        trees, given_up = search.given_up
        rows = nodes.offsets[trees] + given_up
        assert (nodes.failures[rows] == 3).all() and nodes.closed[rows].all()
        below = nodes.parent >= 0
        assert ((nodes.failures == 3) & below).sum() == len(rows)


def test_what_was_given_up_is_told_with_its_roots_and_the_reason() -> None:
    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        if set(leaves.tree.tolist()) & {1, 3}:
            raise ValueError("the prompt is too long")
        return answer(leaves)

    async def later(leaves: ap.Leaves) -> dict[str, Any]:
        return evaluate(leaves)

    words = "2 nodes were given up (option max_failures), 2 of them with a whole tree: 1, 3; "
    words += "the last failure: ValueError: the prompt is too long"
    for run in (
        lambda search: search.run(evaluate, batch_size=1, on_error="fail"),
        lambda search: asyncio.run(search.arun(later, batch_size=1, on_error="fail")),
    ):
        search = ap.Search(5, 200, num_simulations=20)
        with pytest.warns(RuntimeWarning, match=re.escape(words)):
            run(search)
        conserved(search)
        assert search.simulations.tolist() == [20, 0, 20, 0, 20]
        trees, nodes = search.given_up
        assert trees.tolist() == [1, 3] and nodes.tolist() == [0, 0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is said once
            run(search)


def test_a_root_is_borne_as_long_as_other_nodes_at_least() -> None:
    for most in (1, 40):
        search = ap.Search(1, 10, max_failures=most)
        asked = 0
        while leaves := search.select(1):
            search.fail(leaves)
            asked += 1
        assert asked == max(most, 16)


class Outages(Reader):
    """Half of all calls fail as a whole, or from a call on all of them."""

    def __init__(self, seed: int, dead_from: int | None = None) -> None:
        super().__init__()
        self.draw, self.dead_from, self.calls = random.Random(seed), dead_from, 0

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        self.calls += 1
        lost = self.draw.random() < 0.5 if self.dead_from is None else self.calls > self.dead_from
        answers = super().answer(requests)
        return [Answer(error=EvaluatorError("lost"))] * len(answers) if lost else answers


@pytest.mark.filterwarnings(GIVEN_UP)
@pytest.mark.parametrize(("batch_size", "most"), [(1, 100), (4, 100), (1, 3), (4, 3)])
def test_one_tree_goes_on_when_half_of_all_calls_fail(batch_size: int, most: int) -> None:
    failed = lost = 0
    for seed in range(30):
        steps = StepEvaluator(Outages(seed), ["one"], score, children=3, rollouts=1)
        search = ap.Search(1, 500, num_simulations=40, max_failures=most)
        failed += steps.run(search, batch_size=batch_size, on_error="fail")
        assert search.simulations[0] == 40
        lost += len(search.given_up[0])
    assert failed > 100 and (lost < 10 or batch_size == 1), "the fault is not the leaves'"


@pytest.mark.parametrize("most", [1, 3, 100])
def test_an_evaluator_that_died_ends_the_search(most: int) -> None:
    """What was found stays, and leaves are not blamed."""
    for dead_from in range(1, 9):
        model = Outages(0, dead_from)
        steps = StepEvaluator(model, ["one", "two"], score, children=3, rollouts=1)
        search = ap.Search(2, 500, num_simulations=100, max_failures=most)
        with pytest.raises(
            EvaluatorError, match=r"^20 batches in a row without an answer, the last: lost$"
        ):
            steps.run(search, batch_size=4, on_error="fail")
        assert model.calls == dead_from + 20 and search.in_flight == 0
        assert search.simulations.sum() >= dead_from - 1 and steps.steps(search, 0)
        assert not search.nodes().failures.any()


def test_an_evaluator_that_never_answers_ends_the_search() -> None:
    for prompts, batches in ((["one"], 16), (["one", "two"], 20)):
        steps = StepEvaluator(Outages(0, dead_from=0), prompts, score)
        with pytest.raises(EvaluatorError, match=f"{batches} batches in a row without an answer"):
            steps.run(ap.Search(len(prompts), 500), batch_size=4, on_error="fail")


class Flaky(Reader):
    """Any request fails half the time."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        self.answered: list[Request] = []

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        lost = [self.draw.random() < 0.5 for _ in requests]
        self.answered += [request for request, bad in zip(requests, lost, strict=True) if not bad]
        answers = zip(super().answer(requests), lost, strict=True)
        return [Answer(error=EvaluatorError("lost")) if bad else answer for answer, bad in answers]


@pytest.mark.filterwarnings(GIVEN_UP)
@pytest.mark.parametrize("rule", ["puct", "beam", "spo_tree", "treerl", "omegaprm"])
def test_leaves_of_many_requests_are_answered_in_parts(rule: str) -> None:
    """With eight requests a leaf, one whole answer in 256 tries would be none."""
    model, prompts = Flaky(0), [str(i) for i in range(20)]
    steps = StepEvaluator(
        model, prompts, score, children=7, rollouts=2, child_scores=rule in ("beam", "spo_tree")
    )
    search = ap.Search(20, 500, rule=rule, num_simulations=6, max_failures=40)
    steps.run(search, batch_size=20, on_error="fail")
    assert search.in_flight == 0 and not len(search.given_up[0])
    assert len(model.answered) == len(set(model.answered)), "what was answered is not asked again"
    clean, same = ap.Search(20, 500, rule=rule, num_simulations=6), replace(steps, model=Reader())
    same.run(clean, batch_size=20)
    for name in ("visits", "q", "parent"):
        np.testing.assert_array_equal(getattr(search.nodes(), name), getattr(clean.nodes(), name))


class Poisoned(Reader):
    """Says nothing about one text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        never = Answer(error=EvaluatorError("never"))
        answers = zip(requests, super().answer(requests), strict=True)
        return [never if request.text == self.text else answer for request, answer in answers]


@pytest.mark.filterwarnings(GIVEN_UP)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_one_leaf_that_never_answers_is_given_up(batch_size: int) -> None:
    """Also as the last of its search, alone in its batches."""

    def run(model: Reader) -> tuple[int, ap.Search, list[str]]:
        steps = StepEvaluator(model, ["one", "two"], score, children=4, rollouts=1)
        search = ap.Search(2, 500, num_simulations=60)
        failed = steps.run(search, batch_size=batch_size, on_error="fail")
        return failed, search, [s.text for s in steps.states.values() if s.text and not s.terminal]

    _, _, texts = run(Reader())
    for text in [*texts[:2], *texts[-2:]]:
        failed, search, _ = run(Poisoned(text))
        assert search.in_flight == 0 and failed > 0
        assert search.nodes().failures.sum() == failed


class Refused(Reader):
    """Refuses some prompts."""

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        refused = Answer(error=EvaluatorError("too long"))
        answers = zip(requests, super().answer(requests), strict=True)
        return [refused if request.prompt[0] == "!" else answer for request, answer in answers]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("prompts", [["one", "!two"], ["one", "!two", "three", "!four", "!five"]])
def test_prompts_that_are_refused_are_given_up(prompts: list[str], batch_size: int) -> None:
    """Also where the others have long ended, and nothing else is left to ask."""
    steps = StepEvaluator(Refused(), prompts, score, children=2, rollouts=1)
    search = ap.Search(len(prompts), 500, num_simulations=4)
    with pytest.warns(RuntimeWarning, match=r"with a whole tree: 1.* EvaluatorError: too long"):
        steps.run(search, batch_size=batch_size, on_error="fail")
    refused = [prompt[0] == "!" for prompt in prompts]
    assert search.simulations.tolist() == [0 if lost else 4 for lost in refused]
    assert search.given_up[0].tolist() == [i for i, lost in enumerate(refused) if lost]
