"""The transformers evaluator against the model's own forward pass and `generate`."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import numpy as np  # noqa: E402

import apportion as ap  # noqa: E402
from apportion.errors import EvaluatorError, InputError, OptionError  # noqa: E402
from apportion.evaluators import Request, Step, StepEvaluator, seeds  # noqa: E402
from apportion.integrations.transformers import TransformersEvaluator  # noqa: E402
from tiny_model import model, tokenizer  # noqa: E402

torch.set_num_threads(1)
TOKENIZER = tokenizer()
SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}


@pytest.fixture(scope="module")
def tiny() -> Any:
    return model()


def evaluator(tiny: Any, **options: Any) -> TransformersEvaluator:
    options = {"max_step_tokens": 8, "max_rollout_tokens": 16, "stop": ("e",), **options}
    return TransformersEvaluator(tiny, TOKENIZER, **options)


def request(kind: str, prompt: str, steps: tuple[Step, ...] = (), count: int = 3, **more: Any):
    return Request(kind, prompt, steps, count, seeds(0, prompt, (), kind, count), **more)


def log_probs(tiny: Any, prefix: list[int], tokens: list[int]) -> list[float]:
    """By one forward pass over all of it."""
    with torch.inference_mode():
        logits = tiny(torch.tensor([prefix + tokens])).logits[0].double().log_softmax(-1)
    return [float(logits[len(prefix) + i - 1, token]) for i, token in enumerate(tokens)]


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", ["full", "sliding"])
def test_log_probs_are_those_of_one_forward_pass(tiny: Any, kind: str) -> None:
    """Whatever was shared, padded or dropped from the batch on the way."""
    used = tiny if kind == "full" else model(**SLIDING)
    asked = evaluator(used, max_rollout_tokens=24)
    assert (asked.cache is None) == (kind == "sliding")
    first = asked.answer([request("expand", "2 + 2 = "), request("rollout", "A longer prompt: ")])
    deeper = [
        request("expand", "2 + 2 = ", (first[0].steps[0],)),
        request("rollout", "2 + 2 = ", (first[0].steps[1],)),
        request("expand", "A longer prompt: ", first[1].steps[:1]),
        request("rollout", "New"),
    ]
    answers = asked.answer(deeper)
    assert all(len(answer.steps) == 3 for answer in answers)
    for question, answer in zip(deeper, answers, strict=True):
        prefix = ids(question.prompt) + [t for step in question.steps for t in step.tokens]
        for step in answer.steps:
            expected = log_probs(used, prefix, list(step.tokens))
            np.testing.assert_allclose(step.log_probs, expected, atol=2e-4)


def test_steps_end_at_stops_ends_and_limits(tiny: Any) -> None:
    steps = evaluator(tiny).answer([request("expand", "2 + 2 = ", count=64)])[0].steps
    for step in steps:
        stopped = "e" in TOKENIZER.decode(step.tokens, skip_special_tokens=True)
        assert step.done == (step.tokens[-1] == 256)
        assert step.done or stopped or len(step.tokens) == 8
        assert not any(token == 256 for token in step.tokens[:-1])
        before = TOKENIZER.decode(step.tokens[:-1], skip_special_tokens=True)
        assert "e" not in before
    assert len({(step.done, "e" in step.text) for step in steps}) == 3


def test_samples_follow_the_models_distribution(tiny: Any) -> None:
    """First tokens of 3000 samples against the softmax, with each filter."""
    with torch.inference_mode():
        logits = tiny(torch.tensor([ids("Q")])).logits[0, -1].double() / 0.7
    exact = logits.softmax(-1).numpy()
    for options, kept in (({}, 258), ({"top_k": 5}, 5), ({"top_p": 0.5}, None)):
        asked = evaluator(tiny, temperature=0.7, max_step_tokens=1, batch_size=3000, **options)
        steps = asked.answer([request("expand", "Q", count=3000)])[0].steps
        counts = np.bincount([step.tokens[0] for step in steps], minlength=258) / 3000
        order = np.argsort(-exact, kind="stable")
        if kept is None:
            kept = int(np.searchsorted(np.cumsum(exact[order]), 0.5)) + 1
        expected = np.zeros(258)
        expected[order[:kept]] = exact[order[:kept]] / exact[order[:kept]].sum()
        assert np.abs(counts - expected).max() < 4 * math.sqrt(0.25 / 3000)
        assert not counts[expected == 0].any()


def test_a_sample_does_not_depend_on_its_company(tiny: Any) -> None:
    asked = [request(k, p) for k in ("expand", "rollout") for p in ("a", "bcd", "efghijkl")]
    together = evaluator(tiny).answer(asked)
    alone = [evaluator(tiny, batch_size=1).answer([one])[0] for one in reversed(asked)][::-1]
    assert [[s.tokens for s in a.steps] for a in together] == [
        [s.tokens for s in a.steps] for a in alone
    ]


def test_greedy_is_generate(tiny: Any) -> None:
    asked = evaluator(tiny, temperature=0.0)
    step = asked.answer([request("rollout", "2 + 2 = ", count=1)])[0].steps[0]
    prompt = torch.tensor([ids("2 + 2 = ")])
    out = tiny.generate(prompt, max_new_tokens=16, do_sample=False, eos_token_id=256)
    assert list(step.tokens) == out[0, prompt.shape[1] :].tolist()


def test_top_k_proposals_begin_with_the_likeliest_tokens(tiny: Any) -> None:
    steps = evaluator(tiny, proposals="top_k").answer([request("expand", "2 + ", count=5)])[0].steps
    with torch.inference_mode():
        best = tiny(torch.tensor([ids("2 + ")])).logits[0, -1].topk(5).indices.tolist()
    assert [step.tokens[0] for step in steps] == best


def test_score_of_candidates(tiny: Any) -> None:
    for used in (tiny, model(**SLIDING)):
        asked = evaluator(used)
        candidates = ("yes", "no, never", "perhaps")
        question = Request("score", "Will it rain?", (Step(" Well, "),), candidates=candidates)
        steps = asked.answer([question])[0].steps
        for step, text in zip(steps, candidates, strict=True):
            assert (step.text, list(step.tokens)) == (text, ids(text))
            expected = log_probs(used, ids("Will it rain? Well, "), ids(text))
            np.testing.assert_allclose(step.log_probs, expected, atol=2e-4)


def test_value_is_the_share_of_the_good_token(tiny: Any) -> None:
    for used in (tiny, model(**SLIDING)):
        asked = evaluator(used, judge=("+", "-"), judge_prompt=" good? ")
        value = asked.answer([Request("value", "1 + 1", (Step(" = 3"),))])[0].value
        prefix = ids("1 + 1 = 3 good? ")
        good, bad = (math.exp(log_probs(used, prefix, ids(t))[0]) for t in "+-")
        assert value == pytest.approx(good / (good + bad), rel=1e-3)


def test_a_shared_prefix_is_computed_once(tiny: Any) -> None:
    asked = evaluator(tiny)
    prompt = "x" * 50
    root = asked.answer([request("expand", prompt, count=4), request("rollout", prompt, count=8)])
    assert asked.cache.computed == 50
    children = root[0].steps
    asked.answer([request("rollout", prompt, (child,)) for child in children])
    assert asked.cache.computed == 50 + sum(len(t) for t in {child.tokens for child in children})
    small = evaluator(tiny, cache_tokens=60)
    small.answer([request("rollout", prompt, (child,)) for child in children])
    assert small.cache.held <= 60


def test_a_full_context_gives_no_children_and_rollouts_without_a_token(tiny: Any) -> None:
    asked = evaluator(tiny)
    steps = (Step("y" * 250),)
    expand, rollout = asked.answer(
        [request("expand", "x" * 6, steps), request("rollout", "x" * 6, steps)]
    )
    assert expand.steps == () and [s.tokens for s in rollout.steps] == [()] * 3
    near = asked.answer([request("rollout", "x" * 6, (Step("y" * 247),))])[0].steps
    assert all(1 <= len(step.tokens) <= 3 for step in near)


def test_search_with_rollouts_and_with_a_judge(tiny: Any) -> None:
    def run(batch_size: int = 8, **options: Any) -> list[dict[str, Any]]:
        asked = evaluator(tiny, judge=("+", "-"), max_step_tokens=6)
        steps = StepEvaluator(
            asked, ["1 + 1 = ", "What? "], lambda tree, text: float(len(text) % 2), **options
        )
        search = ap.Search(2, 400, num_simulations=24)
        steps.run(search, batch_size=batch_size)
        assert search.simulations.tolist() == [24, 24] and search.in_flight == 0
        return [row for tree in range(2) for row in steps.steps(search, tree)]

    rows = run()
    assert rows == run()
    assert sum(row["depth"] == 0 for row in rows) == 2
    for row in rows:
        assert row["soft"] == np.mean(row["scores"]) == row["value"]
        assert row["hard"] == (row["soft"] > 0)
        assert len(row["scores"]) == (1 if row["terminal"] else 4)
    judged = run(rollouts=0)
    assert all(0 < row["value"] < 1 for row in judged if not row["terminal"])
    assert all(row["soft"] is None for row in judged if not row["terminal"])
    assert all(row["depth"] <= 2 for row in run(max_steps=2))


def test_a_packed_search_reads_the_log_probs_that_were_told(tiny: Any) -> None:
    """One forward pass over all trees, each prefix once, against generation step by step."""
    asked = evaluator(tiny, temperature=0.7)
    steps = StepEvaluator(
        asked, ["1 + 1 = ", "What? "], lambda tree, text: float(len(text) % 2), children=3
    )
    search = ap.Search(2, 400, num_simulations=8)
    steps.run(search)
    credit = search.credit("vineppo", value_mode="rollout")
    packed = search.pack(credit, [asked.prompt_tokens(prompt) for prompt in steps.prompts])
    ids, position, parent = (
        torch.from_numpy(of) for of in (packed.tokens, packed.position, packed.parent)
    )
    seen = torch.from_numpy(packed.attention_mask())
    bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    with torch.inference_mode():
        logits = tiny(
            input_ids=ids[None], position_ids=position[None], attention_mask=bias[None, None]
        ).logits[0]
    trained = torch.from_numpy(packed.loss_mask == 1)
    log_probs, _ = ap.token_log_probs(logits[parent[trained]][None], ids[trained][None])
    told = packed.log_probs[packed.loss_mask == 1]
    assert len(told) > 500 and not np.isnan(told).any()
    np.testing.assert_allclose(log_probs[0].numpy(), told, atol=2e-4)
    assert packed.advantages[packed.loss_mask == 1].any()


def test_errors_say_what_is_wrong(tiny: Any) -> None:
    for options, words in (
        ({"proposals": "beam"}, "proposals: got 'beam'"),
        ({"stop": "\n"}, "stop: got '\\n'"),
        ({"temperature": -1.0}, "temperature: got -1.0"),
        ({"top_p": 0.0}, "top_p: got 0.0"),
        ({"judge": ("yes", "no")}, "judge: 'yes' is 3 tokens"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ):
        with pytest.raises(OptionError, match=words.replace("\\", "\\\\")):
            evaluator(tiny, **options)
    asked = evaluator(tiny)
    with pytest.raises(InputError, match="got 256 tokens, expected fewer than the 256"):
        asked.answer([request("expand", "x" * 256)])
    with pytest.raises(OptionError, match="judge: got None"):
        asked.answer([Request("value", "x")])
    with pytest.raises(InputError, match=r"candidates\[1\]"):
        asked.answer([Request("score", "x", candidates=("a", ""))])
    with pytest.raises(OptionError, match="kind: got 'guess'"):
        Request("guess", "x")
    broken = model()
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(EvaluatorError, match="no numbers"):
        evaluator(broken).answer([request("expand", "x")])
