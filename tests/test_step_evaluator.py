"""Answers that a model writes step by step, under every rule, and across a resume."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.errors import EvaluatorError, InputError, OptionError
from apportion.evaluators import Answer, Request, Step, StepEvaluator, priors, seeds

VALUES_OF_CHILDREN = (
    "alphamath",
    "beam",
    "dvts",
    "early_rejection",
    "llm_reasoners",
    "pra",
    "propa",
    "rest_mcts",
    "rstar_math",
    "spo_tree",
    "swe_trace",
    "tree_ps_rag",
    "treepo",
)


RESUMED = ("puct", "omegaprm", "tree_ps_rag", "prorag", "early_rejection", "treerl", "tree_grpo")


class Writer:
    """Letters from a to d, up to five; each costs log-probs. With tokens or without."""

    def __init__(self, tokens: bool = True) -> None:
        self.tokens = tokens
        self.asked: list[Request] = []

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        self.asked += requests
        return [
            Answer(value=0.5)
            if request.kind == "value"
            else Answer(tuple(self.write(request, seed) for seed in request.seeds))
            for request in requests
        ]

    def write(self, request: Request, seed: int) -> Step:
        draw, left = random.Random(seed), 5 - len(request.text)
        wanted = left if request.kind == "rollout" else draw.randint(1, 2)
        letters = draw.choices("abcd", k=min(wanted, left, request.max_tokens or left))
        return self.step_of("".join(letters), len(letters) == left)

    def step_of(self, text: str, done: bool) -> Step:
        if not self.tokens:
            return Step(text, done=done)
        ids = (*map(ord, text), *([0] if done else []))
        return Step(text, ids, tuple(-0.1 * (i % 7 + 1) for i in ids), done)


class Reader(Writer):
    """Reads tokens as well, as a model of transformers does."""

    def step(self, tokens: Sequence[int]) -> Step:
        return self.step_of("".join(chr(t) for t in tokens if t), 0 in tokens)


class Unnumbered(Writer):
    """Log-probs of tokens, but not their numbers, as a server gives them."""

    def step_of(self, text: str, done: bool) -> Step:
        return replace(super().step_of(text, done), tokens=())


def score(tree: int, text: str) -> float:
    return float(text.count("a") > tree)


def searched(model: Writer, rule: str = "puct", **more: Any) -> tuple[StepEvaluator, ap.Search]:
    how = {"children": 3, "rollouts": 3, "max_steps": 5, **more.pop("how", {})}
    how["child_scores"] = rule in VALUES_OF_CHILDREN
    steps = StepEvaluator(model, ["one", "two"], score, **how)
    limits = {"max_nodes": 500, "num_simulations": 20, "max_requests": 100, **more}
    search = ap.Search(2, rule=rule, **limits)
    return steps, search


@pytest.mark.parametrize("rule", sorted(ap.search_rules()))
@pytest.mark.parametrize("model", [Reader, lambda: Writer(tokens=False)])
def test_every_rule(rule: str, model: Any) -> None:
    """Rows are what a text from the root says; running it again gives the same."""
    if rule == "treerl" and not model().tokens:
        steps, search = searched(model(), rule)
        with pytest.raises(InputError, match="rollout_log_probs"):
            steps.run(search)
        return

    def run() -> list[dict[str, Any]]:
        steps, search = searched(model(), rule)
        assert steps.run(search, batch_size=6) == 0
        assert search.in_flight == 0
        rows = [{"tree": t, **row} for t in (0, 1) for row in steps.steps(search, t)]
        texts: dict[tuple[int, int], str] = {}
        for row in rows:
            above = texts.get((row["tree"], row["parent"]), "")
            text = texts[row["tree"], row["node"]] = above + row["text"]
            assert len(text) <= 5 and set(text) <= set("abcd")
            if row["terminal"]:
                assert row["scores"] == [score(row["tree"], text)]
            elif row["scores"]:
                assert row["soft"] == np.mean(row["scores"]) == row["value"]
        assert {row["tree"] for row in rows} == {0, 1}
        return rows

    assert run() == run()


@pytest.mark.parametrize("rule", RESUMED)
@pytest.mark.parametrize("model", [Reader, lambda: Writer(tokens=False), Unnumbered])
def test_a_resumed_search_goes_on_as_it_would_have(rule: str, model: Any, tmp_path: Path) -> None:
    """After any number of batches, and it asks the model nothing twice."""
    if rule == "treerl" and model is not Reader:
        pytest.skip("this rule needs log-probs of tokens")
    whole, unbroken = searched(model(), rule)
    whole.run(unbroken, batch_size=4)
    expected = [whole.steps(unbroken, tree) for tree in (0, 1)]
    for stop in (1, 2, 5):
        folder = tmp_path / str(stop)
        first, search = searched(model(), rule)
        search.log_to(folder)
        for _ in range(stop):
            if leaves := search.select(4, order="prefix"):
                search.expand(leaves, **first(leaves))
        search.close()
        resumed = ap.Search.resume(folder)
        second, _ = searched(model(), rule)
        second.restore(resumed)
        second.run(resumed, batch_size=4)
        got = [second.steps(resumed, tree) for tree in (0, 1)]
        assert got == expected
        assert second.texts(resumed) == whole.texts(unbroken)
        asked = [r.seeds for r in first.model.asked + second.model.asked]
        assert sorted(asked) == sorted(r.seeds for r in whole.model.asked)
        np.testing.assert_array_equal(resumed.log_probs(), unbroken.log_probs())


def test_a_model_with_tokens_has_to_read_them() -> None:
    """Rules cut tokens, and a log keeps no texts."""
    steps, search = searched(Writer())
    with pytest.raises(OptionError, match=r"model: .* expected `step\(tokens\)`"):
        steps.run(search)
    assert search.in_flight == 0 and not search.simulations.any()


def test_texts_of_steps_that_were_only_proposed() -> None:
    steps, search = searched(Reader())
    search.expand(leaves := search.select(1), **steps(leaves))
    children = steps.states[0, 0].children
    proposed = {(0, 1 + k): child.steps[-1].text for k, child in enumerate(children)}
    assert steps.texts(search) == {(0, 0): "one", **proposed}
    trees = ap.Trees.from_search(search, steps.texts(search))
    assert trees.texts == ["one", *proposed.values(), None]  # of the second tree nothing yet


def test_widening_samples_what_is_new() -> None:
    model = Reader()
    steps, search = searched(model, widening=(1.5, 0.5), how={"children": 1})
    steps.run(search, batch_size=4)
    for tree in (0, 1):
        root = steps.states[tree, 0]
        assert len(root.children) > 1
        assert len({child.text for child in root.children}) == len(root.children)
        assert search.nodes().children[search.nodes().offsets[tree]] == len(root.children)
        prompt = steps.prompts[tree]
        asked = [r for r in model.asked if (r.prompt, r.steps, r.kind) == (prompt, (), "expand")]
        assert len({r.seeds for r in asked}) == len(asked) > 1


def test_values_instead_of_rollouts_and_depth() -> None:
    model = Reader()
    steps, search = searched(model, how={"rollouts": 0, "max_steps": 2})
    steps.run(search)
    rows = steps.steps(search, 0)
    assert {row["value"] for row in rows if not row["terminal"]} == {0.5}
    assert max(row["depth"] for row in rows) <= 2
    assert {r.kind for r in model.asked} == {"expand", "value"}


def test_priors() -> None:
    steps = [Step("a", (1,), (-1.0,)), Step("bc", (2, 3), (-1.0, -2.0)), Step("d", (4,), (-3.0,))]
    weights = np.exp([-1.0, -1.5, -3.0])
    assert priors(steps) == pytest.approx(weights / weights.sum())
    weights = np.exp([-1.0, -3.0, -3.0])
    assert priors(steps, "sum") == pytest.approx(weights / weights.sum())
    assert priors(steps, "equal") == [1 / 3] * 3 == priors([Step(c) for c in "abc"])
    assert priors([]) == []
    far = [Step("a", (1,), (-1e4,)), Step("b", (1,), (-1e4 - 1,))]
    assert sum(priors(far, "sum")) == pytest.approx(1)


def test_seeds_depend_on_all_and_only_their_arguments() -> None:
    one = seeds(0, "a", (1, 2), "expand", 4)
    assert one == seeds(0, "a", (1, 2), "expand", 4)
    others = [
        seeds(1, "a", (1, 2), "expand", 4),
        seeds(0, "b", (1, 2), "expand", 4),
        seeds(0, "a", (12,), "expand", 4),
        seeds(0, "a", (1, 2), "rollout", 4),
    ]
    assert len({*one, *(seed for other in others for seed in other)}) == 20
    assert seeds(0, "a", (1, 2), "expand", 6)[:4] == one
    assert all(0 <= seed < 2**31 for seed in one)


class Broken(Reader):
    """Gives one wrong answer of every `period`."""

    def __init__(self, period: int, wrong: Answer) -> None:
        super().__init__()
        self.period, self.wrong = period, wrong

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        answers = super().answer(requests)
        begun = len(self.asked) - len(requests)
        return [
            self.wrong if (begun + i) % self.period == self.period - 1 else answer
            for i, answer in enumerate(answers)
        ]


@pytest.mark.filterwarnings("ignore:search.*given up:RuntimeWarning")
@pytest.mark.parametrize("period", [100, 10, 3])
@pytest.mark.parametrize(
    "wrong", [Answer(error=EvaluatorError("lost")), Answer(), Answer(value=float("nan"))]
)
def test_wrong_answers_cost_their_leaf_alone(period: int, wrong: Answer) -> None:
    steps, search = searched(Broken(period, wrong), how={"rollouts": 1, "children": 2})
    failed = steps.run(search, on_error="fail", batch_size=8)
    nodes = search.nodes()
    assert search.in_flight == 0 and failed >= nodes.failures.sum() and (failed > 0 or period > 10)
    for tree in (0, 1):
        first, last = nodes.offsets[tree : tree + 2]
        assert nodes.visits[first] in (0, search.simulations[tree] + 1)
        below = nodes.visits[first:last][nodes.parent[first:last] == 0].sum()
        assert nodes.visits[first] in (0, below + 1)


def test_errors() -> None:
    for options, words in (
        ({"children": 0}, "children: got 0"),
        ({"rollouts": -1}, "rollouts: got -1"),
        ({"max_steps": True}, "max_steps: got True"),
        ({"prior": "max"}, "prior: got 'max'"),
    ):
        with pytest.raises(OptionError, match=words):
            StepEvaluator(Reader(), ["x"], score, **options)
    with pytest.raises(InputError, match="names: got 2, expected 1"):
        StepEvaluator(Reader(), ["x"], score, names=["a", "b"])
    with pytest.raises(InputError, match="seeds: got 1, expected 2"):
        Request("expand", "x", count=2, seeds=(1,))
    steps, search = searched(Reader())
    with pytest.raises(OptionError, match="on_error: got 'stop'"):
        steps.run(search, on_error="stop")
    steps.verify = lambda tree, text: float("nan")
    with pytest.raises(EvaluatorError, match="verify: got nan for tree 0"):
        steps.run(search)
    assert search.in_flight == 0 and not steps.states

    class Silent(Reader):
        def answer(self, requests: Sequence[Request]) -> list[Answer]:
            return []

    steps, search = searched(Silent())
    with pytest.raises(EvaluatorError, match="got 0 answers to"):
        steps.run(search)
    assert search.in_flight == 0


JUDGED = ("beam", "dvts", "early_rejection", "llm_reasoners", "pra", "rest_mcts", "swe_trace")


@pytest.mark.parametrize("rule", sorted(ap.search_rules()))
def test_rules_that_compare_steps_are_refused_before_anything_is_asked(rule: str) -> None:
    model = Reader()
    steps, search = searched(model, rule)
    steps.child_scores = False
    if rule not in JUDGED:
        steps.run(search)
        return
    for run in (
        steps.run,
        lambda search: search.run(steps),
        lambda search: search.run(steps, on_error="fail"),
        lambda search: asyncio.run(search.arun(steps.evaluate, on_error="fail")),
    ):
        search = searched(model, rule)[1]
        with pytest.raises(OptionError, match=r"child_scores: got False.*--child-scores"):
            run(search)
        assert search.in_flight == 0 and not model.asked


def test_an_answer_that_is_refused_leaves_nothing_in_flight() -> None:
    steps, search = searched(Writer(tokens=False), "treerl")
    with pytest.raises(InputError, match="rollout_log_probs"):
        steps.run(search)
    assert search.in_flight == 0
