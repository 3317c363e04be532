"""`patch_log_probs` against the unpatched model, on tiny random models of several families."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from apportion.errors import InputError  # noqa: E402
from apportion.integrations.transformers import patch_log_probs  # noqa: E402

SIZES = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def family(name: str, config: str = "Config", **more: Any) -> Callable[[], Any]:
    def make() -> Any:
        torch.manual_seed(0)
        settings = getattr(transformers, name + config)(**SIZES, **more)
        model = getattr(transformers, f"{name}ForCausalLM")(settings).eval()
        for key, weight in model.named_parameters():
            if "embed" in key or "head" in key:
                weight.data.mul_(30)  # logits far enough apart for a softcap to bend them
        return model

    return make


FAMILIES = {
    "qwen2": family("Qwen2"),
    "llama": family("Llama", tie_word_embeddings=True),
    "gemma2": family("Gemma2", head_dim=8, final_logit_softcapping=3.0),
    "gemma3": family("Gemma3", "TextConfig", head_dim=8, final_logit_softcapping=2.0),
    "cohere": family("Cohere", logit_scale=0.25),
    "granite": family("Granite", logits_scaling=8.0),
    "mixtral": family("Mixtral", num_local_experts=4),
}


def inputs() -> dict[str, Any]:
    ids = torch.randint(3, 101, (3, 11), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.ones_like(ids)
    attention_mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": attention_mask}


def next_tokens(given: dict[str, Any]) -> Any:
    targets = torch.nn.functional.pad(given["input_ids"][:, 1:], (0, 1), value=-100)
    return targets.masked_fill(given["attention_mask"] == 0, -100)


def by_logits(model: Any, given: dict[str, Any], targets: Any, temperature: float) -> Any:
    every = (model(**given).logits.float() / temperature).log_softmax(-1)
    own = every.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    valid = targets >= 0
    return own * valid, -(every.exp() * every).sum(-1) * valid


def slopes(model: Any, log_probs: Any, entropy: Any) -> dict[str, Any]:
    model.zero_grad()
    (log_probs.sum() + 0.1 * entropy.sum()).backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_as_the_unpatched_model(name: str) -> None:
    model, given = FAMILIES[name](), inputs()
    targets = next_tokens(given)
    want = by_logits(model, given, targets, 0.7)
    expected, logits = slopes(model, *want), model(**given).logits
    assert patch_log_probs(model) is model and patch_log_probs(model) is model
    for _ in range(2):  # the second call knows what is done to logits
        out = model(**given, targets=targets, temperature=0.7)
        torch.testing.assert_close(out.log_probs, want[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.entropy, want[1], rtol=1e-5, atol=1e-5)
    found = slopes(model, out.log_probs, out.entropy)
    assert found.keys() == expected.keys()
    for key, slope in found.items():
        torch.testing.assert_close(slope, expected[key], rtol=1e-3, atol=1e-4)
    assert torch.equal(model(**given).logits, logits), "without targets it is as it was"


def test_options_and_outputs() -> None:
    model, given = patch_log_probs(FAMILIES["qwen2"]()), inputs()
    out = model(**given, targets=next_tokens(given), entropy=False, output_hidden_states=True)
    assert out.entropy is None and len(out.hidden_states) == 3
    generated = model.generate(**given, max_new_tokens=2, do_sample=False)
    assert generated.shape == (3, 13)


def test_a_copy_is_a_model_of_its_own() -> None:
    model, given = patch_log_probs(FAMILIES["qwen2"]()), inputs()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.zero_()
    targets = next_tokens(given)
    assert copied(**given).logits.abs().max() == 0
    uniform = -math.log(copied.config.vocab_size)
    there = targets >= 0
    got = copied(**given, targets=targets).log_probs[there]
    torch.testing.assert_close(got, torch.full_like(got, uniform))
    assert (model(**given, targets=targets).log_probs[there] - uniform).abs().max() > 1e-3


def test_a_model_that_was_pickled_can_be_patched_again() -> None:
    model, given = patch_log_probs(FAMILIES["qwen2"]()), inputs()
    back = pickle.loads(pickle.dumps(model))
    targets = next_tokens(given)
    got = patch_log_probs(back)(**given, targets=targets)
    torch.testing.assert_close(got.log_probs, model(**given, targets=targets).log_probs)


def test_another_change_of_logits_is_named() -> None:
    model, given = FAMILIES["llama"](), inputs()
    plain = model.forward

    def squared(*args: Any, **kwargs: Any) -> Any:
        out = plain(*args, **kwargs)
        out.logits = out.logits.square()
        return out

    model.forward = squared
    patch_log_probs(model)
    with pytest.raises(InputError, match="expected a scale and a softcap"):
        model(**given, targets=next_tokens(given))
    assert model(**given).logits.shape[-1] == 101, "the head is itself again"


def test_wrong_input() -> None:
    model, given = patch_log_probs(FAMILIES["llama"]()), inputs()
    targets = next_tokens(given)
    with pytest.raises(InputError, match="labels: got some"):
        model(**given, targets=targets, labels=targets)
    with pytest.raises(InputError, match="targets: got shape"):
        model(**given, targets=targets[:, 1:])
    with pytest.raises(InputError, match=r"targets\[0, 0\]: got 101"):
        model(**given, targets=torch.full_like(targets, 101))
    with pytest.raises(InputError, match="model: got Linear"):
        patch_log_probs(torch.nn.Linear(2, 2))
