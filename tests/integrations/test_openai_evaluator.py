"""The OpenAI evaluator against a real server on localhost, which fails and dies in the middle."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("httpx")

import apportion as ap  # noqa: E402
import completions_server  # noqa: E402
from apportion.errors import EvaluatorError, OptionError  # noqa: E402
from apportion.evaluators import Answer, Request, Step, StepEvaluator, seeds  # noqa: E402
from apportion.integrations.openai import OpenAIEvaluator  # noqa: E402
from completions_server import Server  # noqa: E402


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def calm(server: Server) -> None:
    server.faults.clear()
    server.bodies.clear()
    server.ignores.clear()


def evaluator(url: str, **options: Any) -> OpenAIEvaluator:
    options = {"max_step_tokens": 8, "max_rollout_tokens": 12, "backoff": 0.01, **options}
    return OpenAIEvaluator(url, "tiny", **options)


def request(kind: str, prompt: str = "2 + 2 = ", count: int = 3, **more: Any) -> Request:
    return Request(kind, prompt, more.pop("steps", ()), count, seeds(0, prompt, (), kind, count))


def ask(asked: OpenAIEvaluator, *requests: Request) -> list[Answer]:
    return asyncio.run(asked.answer(requests))


def test_steps_and_rollouts(server: Server) -> None:
    asked = evaluator(server.url, template="<user>{prompt}<reply>", api_key="secret")
    expand, rollout = ask(
        asked, request("expand", count=24), request("rollout", steps=(Step("Well,\n"),))
    )
    for step in expand.steps:
        newline = step.text.lstrip().find("\n")
        assert newline in (-1, len(step.text.lstrip()) - 1)
        assert step.done or newline >= 0 or len(step.text) == 8
        # One of our server's tokens is one character; the end has no log-prob there.
        assert len(step.log_probs) == len(step.text)
        assert all(log_prob < 0 for log_prob in step.log_probs)
    assert any(step.done for step in expand.steps)
    assert any("\n" in step.text.strip() for step in rollout.steps)
    bodies = {body["seed"]: body for body in server.bodies}
    assert set(bodies) == {*request("expand", count=24).seeds, *request("rollout").seeds}
    assert all(body["authorization"] == "Bearer secret" for body in bodies.values())
    assert bodies[request("expand").seeds[0]]["prompt"] == "<user>2 + 2 = <reply>"
    assert bodies[request("rollout").seeds[0]]["prompt"] == "<user>2 + 2 = <reply>Well,\n"
    assert ask(asked, request("expand", count=24))[0] == expand  # the seeds fix it


def test_score_and_value(server: Server) -> None:
    asked = evaluator(server.url, judge=("+", "-"), judge_prompt=" good? ", judge_top=258)
    steps = (Step(" Well, "),)
    score, value = ask(
        asked,
        Request("score", "Rain?", steps, candidates=("yes", "no, never")),
        Request("value", "Rain?", steps),
    )

    def exact(prefix: str, text: str) -> list[float]:
        ids = server.tokenizer(prefix + text).input_ids
        with torch.inference_mode():
            logits = server.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return [float(logits[i - 1, ids[i]]) for i in range(len(prefix), len(ids))]

    for step, text in zip(score.steps, ("yes", "no, never"), strict=True):
        assert step.text == text
        assert step.log_probs == pytest.approx(exact("Rain? Well, ", text), abs=1e-4)
    good, bad = (math.exp(exact("Rain? Well,  good? ", t)[0]) for t in "+-")
    assert value.value == pytest.approx(good / (good + bad), rel=1e-4)


@pytest.mark.parametrize("fault", [503, 429, "cut", "hang"])
def test_passing_failures_are_tried_again(server: Server, fault: Any) -> None:
    calm = ask(evaluator(server.url), request("rollout", count=1))
    server.faults[:] = [fault, fault]
    assert ask(evaluator(server.url, timeout=0.5), request("rollout", count=1)) == calm
    assert len(server.bodies) == 4


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ([503] * 9, "status 503: no, not now; 3 attempts"),
        (["hang"] * 9, "no answer within 0.3 s; 3 attempts"),
        (["cut"] * 9, "the stream broke off; 3 attempts"),
        ([400], "status 400: no, not now"),
        (["junk"], "expected an event"),
    ],
)
def test_lasting_failures_are_named(server: Server, faults: list[Any], words: str) -> None:
    server.faults[:] = faults
    asked = evaluator(server.url, retries=2, timeout=0.3 if "hang" in faults else 60.0)
    (answer,) = ask(asked, request("expand", count=1))
    assert isinstance(answer.error, EvaluatorError)
    assert str(answer.error).startswith(f"{server.url}/completions: ")
    assert words in str(answer.error)


def test_one_failure_leaves_the_other_answers(server: Server) -> None:
    server.faults[:] = [400]
    answers = ask(evaluator(server.url, concurrency=1), request("expand"), request("rollout"))
    assert sorted(answer.error is None for answer in answers) == [False, True]


def test_a_server_without_log_probs(server: Server) -> None:
    server.ignores |= {"logprobs", "echo"}
    (answer,) = ask(evaluator(server.url), request("rollout"))
    assert "set log_probs=False" in str(answer.error)
    (answer,) = ask(evaluator(server.url, log_probs=False), request("rollout"))
    assert answer.error is None and all(step.log_probs == () for step in answer.steps)
    asked = evaluator(server.url, judge=("+", "-"))
    for kind in ("score", "value"):
        (answer,) = ask(asked, Request(kind, "x", candidates=("a",)))
        assert "got no log-probs" in str(answer.error)


# Chats

CHAT = "<user>{prompt}</><assistant>"


def test_a_chat_is_gone_on_with(server: Server) -> None:
    """Answers are those of the plain endpoint to the text that the chat stands for."""
    asked = [
        request("expand", count=12),
        request("rollout", steps=(Step("Well,\n"), Step("so ")), count=6),
        request("expand", prompt="Why?", steps=(Step("Well,\n"),)),
    ]
    plain = ask(evaluator(server.url, template=CHAT), *asked)
    server.bodies.clear()
    assert ask(evaluator(server.url, chat=True), *asked) == plain
    assert all(step.log_probs for answer in plain for step in answer.steps if step.text)
    sizes, bodies = server.bodies[:2], server.bodies[2:]
    assert [body["max_tokens"] for body in sizes] == [1, 1]
    assert all(("continue_final_message" in b) == (len(b["messages"]) == 2) for b in bodies)
    judged = {"judge": ("+", "-"), "judge_prompt": " good? ", "judge_top": 258}
    value = Request("value", "Rain?", (Step(" Well, "),))
    expected = ask(evaluator(server.url, template=CHAT, **judged), value)[0]
    assert ask(evaluator(server.url, chat=True, **judged), value)[0] == expected
    with pytest.raises(OptionError, match="chat: got True, expected False"):
        ask(evaluator(server.url, chat=True), Request("score", "x", candidates=("a",)))


def test_a_server_that_begins_a_new_message_is_refused(server: Server) -> None:
    server.ignores |= {"continue_final_message", "add_generation_prompt"}
    asked = evaluator(server.url, chat=True)
    first, later = ask(asked, request("expand"), request("expand", steps=(Step("Well, "),)))
    assert first.error is None and len(first.steps) == 3
    # A letter, "</>" and "<assistant>": a token a character here.
    assert "begins a new message where it should go on" in str(later.error)
    assert "/chat/completions: " in str(later.error) and "costs 15 tokens" in str(later.error)
    server.ignores.clear()  # it is asked again, and now it does
    (later,) = ask(asked, request("expand", steps=(Step("Well, "),)))
    assert later.error is None


def test_what_cannot_be_told_of_a_chat(server: Server) -> None:
    """A check that failed is made again; thoughts are no answer; broken streams are read again."""
    server.faults[:] = [400]
    later = request("rollout", steps=(Step("Well, "),))
    asked = evaluator(server.url, chat=True)
    first, failed = ask(asked, request("rollout"), later)
    assert first.error is None and "status 400" in str(failed.error)
    assert ask(asked, later)[0].error is None
    server.thinks = True
    try:
        (answer,) = ask(asked, later)
        assert "the model thinks before it answers" in str(answer.error)
    finally:
        server.thinks = False
    server.faults[:] = ["cut", "cut"]
    assert ask(asked, later)[0] == ask(evaluator(server.url, template=CHAT), later)[0]


def test_options_are_checked() -> None:
    for options, words in (
        ({"template": "x"}, "template: got 'x'"),
        ({"stop": "\n"}, "stop: got"),
        ({"timeout": 0}, "timeout: got 0"),
        ({"retries": -1}, "retries: got -1"),
        ({"concurrency": 0}, "concurrency: got 0"),
    ):
        with pytest.raises(OptionError, match=words):
            evaluator("http://localhost:1/v1", **options)


# Searches


def searched(url: str, **how: Any) -> tuple[int, list[dict[str, Any]], ap.Search]:
    steps = StepEvaluator(
        evaluator(url, **how.pop("options", {})),
        ["1 + 1 = ", "What? "],
        lambda tree, text: float(len(text) % 2),
        children=2,
        rollouts=1,
    )
    search = ap.Search(2, 200, num_simulations=8)
    failed = steps.run(search, batch_size=4, **how)
    return failed, [row for tree in range(2) for row in steps.steps(search, tree)], search


def test_a_search_is_the_same_again(server: Server) -> None:
    failed, rows, search = searched(server.url)
    assert (failed, search.simulations.tolist()) == (0, [8, 8])
    assert searched(server.url, options={"concurrency": 1})[1] == rows


def test_a_search_goes_on_past_failures(server: Server) -> None:
    server.faults[:] = [None, 400] * 6
    failed, rows, search = searched(server.url, on_error="fail")
    assert failed > 0 and search.in_flight == 0
    assert search.simulations.tolist() == [8, 8]
    nodes = search.nodes()
    for tree in (0, 1):
        first = nodes.offsets[tree]
        assert nodes.visits[first] == 9 and len([r for r in rows if r["node"] == 0]) == 2


@contextmanager
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server as a process of its own, killed at the end at the latest."""
    root = Path(completions_server.__file__).parent
    running = subprocess.Popen(
        [sys.executable, completions_server.__file__],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        assert running.stdout is not None
        yield running, running.stdout.readline().strip()
    finally:
        running.kill()
        running.wait()


def test_a_killed_server_ends_a_search_in_a_named_error() -> None:
    """What was found until then stays, and nothing is left in flight."""
    with process() as (running, url):
        steps = StepEvaluator(
            evaluator(url, retries=1), ["1 + 1 = "], lambda tree, text: 1.0, children=2, rollouts=1
        )
        search = ap.Search(1, 10_000, num_simulations=5000)

        def kill_late(done: int) -> None:
            if done >= 8:
                running.kill()

        for on_error in ("fail", "raise"):
            with pytest.raises(EvaluatorError, match=f"{url}/completions: .*; 2 attempts"):
                steps.run(search, batch_size=2, on_error=on_error, tick=kill_late)
            assert search.in_flight == 0 and 8 <= search.simulations[0] < 5000
            assert len(steps.steps(search, 0)) == search.nodes().visits[0]


def test_a_server_that_comes_back_is_waited_for(server: Server) -> None:
    """Refused connections are tried again until somebody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    late = threading.Timer(0.3, lambda: Server(port).__enter__())
    late.start()
    url = f"http://127.0.0.1:{port}/v1"
    (answer,) = ask(evaluator(url, retries=8, backoff=0.05), request("rollout"))
    assert answer.error is None and len(answer.steps) == 3
