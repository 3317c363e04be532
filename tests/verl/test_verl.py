"""verl's own estimators against their replacements, on the same tensors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from verl.trainer.ppo import core_algos, ray_trainer

import apportion as ap
import verl  # noqa: F401  (loads the plugins)
from apportion.integrations.verl import CORE, accelerate
from apportion.integrations.verl_functions import REPLACEMENTS


class Config(dict):
    """A config as verl's functions use it: attributes and `get`."""

    __getattr__ = dict.__getitem__


def scenario(name: str) -> dict[str, Any]:
    """Arguments of verl's estimators for one kind of batch."""
    rng = np.random.default_rng(sum(map(ord, name)))
    rows, width = 24, 40
    mask = np.arange(width) < rng.integers(width // 8, width + 1, rows)[:, None]
    if name == "inner":
        mask &= rng.random((rows, width)) < 0.7
        mask[:, 0] = True
    if name == "masked_row":
        mask[3] = False
    rewards = np.zeros((rows, width), np.float32)
    last = [np.flatnonzero(m)[-1] if m.any() else 0 for m in mask]
    scores = rng.normal(size=rows)
    if name == "binary":
        scores = rng.integers(0, 2, rows).astype(float)
    if name == "zero_variance":
        scores[:] = 0.5
    if name == "dense":
        rewards = rng.normal(size=(rows, width)).astype(np.float32)
    rewards[np.arange(rows), last] += scores.astype(np.float32)
    index = np.array([f"prompt-{i // 4}" for i in range(rows)], dtype=object)
    if name == "uneven":
        index = np.array([f"prompt-{i}" for i in rng.integers(0, 6, rows)], dtype=object)
        index[:4] = "prompt-0"
    if name == "singletons":
        index = np.array([f"prompt-{i}" for i in range(rows)], dtype=object)
    return {
        "token_level_rewards": torch.from_numpy(rewards),
        "response_mask": torch.from_numpy(mask.astype(np.int64)),
        "index": index,
        "values": torch.from_numpy(rng.normal(size=(rows, width)).astype(np.float32)),
        "gamma": 0.99,
        "lam": 0.95,
        "reward_baselines": torch.from_numpy(rng.normal(size=rows).astype(np.float32)),
        "old_log_probs": torch.from_numpy(-rng.random((rows, width)).astype(np.float32)),
        "sum_pi_squared": torch.from_numpy(rng.random((rows, width)).astype(np.float32)),
        "config": Config(gamma=0.97, norm_adv_by_std_in_grpo=True),
    }


SCENARIOS = (
    "random",
    "binary",
    "dense",
    "inner",
    "masked_row",
    "uneven",
    "singletons",
    "zero_variance",
)


def call(function: Any, given: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    names = inspect.signature(function).parameters
    arguments = {k: v for k, v in given.items() if k in names}
    copies = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    return function(**copies)


@pytest.fixture
def replaced() -> Iterator[Any]:
    replacement = accelerate()
    yield replacement
    replacement.undo()


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("function", list(REPLACEMENTS))
def test_equal(function: str, name: str) -> None:
    theirs, ours = getattr(core_algos, function), REPLACEMENTS[function]
    given = scenario(name)
    try:
        want = call(theirs, given)
    except ValueError as error:
        with pytest.raises(ap.InputError, match="at least 2"):
            call(ours, given)
        assert "at least 2" in str(error)
        return
    got = call(ours, given)
    for part, mine, own in zip(("advantages", "returns"), got, want, strict=True):
        assert mine.dtype == own.dtype and mine.shape == own.shape, part
        torch.testing.assert_close(mine, own, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("divide", [True, False])
def test_grpo_without_std_and_passk(divide: bool) -> None:
    given = scenario("random")
    given["norm_adv_by_std_in_grpo"] = divide
    given["config"] = Config(norm_adv_by_std_in_grpo=divide)
    for function in (
        "compute_grpo_outcome_advantage",
        "compute_grpo_vectorized_outcome_advantage",
        "compute_grpo_passk_outcome_advantage",
    ):
        want = call(getattr(core_algos, function), given)
        torch.testing.assert_close(call(REPLACEMENTS[function], given), want, rtol=1e-4, atol=1e-5)


def test_token_baselines_with_weights_and_tail() -> None:
    given = scenario("inner")
    given["rollout_is_weights"] = torch.rand_like(given["values"]) + 0.5
    for tail in (True, False):
        given["handle_zero_tail"] = tail
        for function in REPLACEMENTS:
            if "token_baseline" in function:
                want = call(getattr(core_algos, function), given)
                got = call(REPLACEMENTS[function], given)
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_gdpo_components() -> None:
    given = scenario("random")
    rows, width = given["response_mask"].shape
    rng = np.random.default_rng(5)
    given["response_mask"] = (
        torch.arange(width) < torch.from_numpy(rng.integers(5, width, rows))[:, None]
    ).long()
    given["non_tensor_batch"] = {"a": rng.normal(size=rows), "b": rng.integers(0, 2, rows)}
    given["config"] = Config(gdpo_reward_keys=["a", "b"], gdpo_reward_weights=[1.0, 0.5])
    prompt = torch.ones((rows, 3), dtype=torch.long)
    attention = torch.cat([prompt, given["response_mask"]], dim=1)
    given["batch"] = {"prompts": prompt, "attention_mask": attention}
    name = "compute_gdpo_outcome_advantage"
    want, got = call(getattr(core_algos, name), given), call(REPLACEMENTS[name], given)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5)


def test_outcome_estimators_return_one_tensor_twice() -> None:
    for name in REPLACEMENTS:
        given = scenario("random")
        want, got = call(getattr(core_algos, name), given), call(REPLACEMENTS[name], given)
        assert (want[0] is want[1]) == (got[0] is got[1]), name


def test_arguments_are_not_changed() -> None:
    given = scenario("random")
    kept = {k: v.clone() for k, v in given.items() if isinstance(v, torch.Tensor)}
    for function in REPLACEMENTS.values():
        names = inspect.signature(function).parameters
        function(**{k: v for k, v in given.items() if k in names})
    for name, tensor in kept.items():
        assert torch.equal(tensor, given[name])


def test_accelerate_replaces_everything_and_can_be_undone() -> None:
    own = {name: getattr(core_algos, name) for name in REPLACEMENTS}
    registry = dict(core_algos.ADV_ESTIMATOR_REGISTRY)
    replacement = accelerate()
    assert len({attribute for _, attribute, _ in replacement.places}) == len(REPLACEMENTS) == 14
    assert {n for n, f in registry.items() if f in own.values()} == {
        name for name, _ in replacement.registry
    }
    assert all(f"{CORE}.{name}" in str(replacement) for name in REPLACEMENTS)
    assert accelerate() is replacement
    replacement.undo()
    assert {name: getattr(core_algos, name) for name in REPLACEMENTS} == own
    assert registry == core_algos.ADV_ESTIMATOR_REGISTRY


def batch(given: dict[str, Any]) -> Any:
    """As much of verl's DataProto as `compute_advantage` reads."""
    names = ("token_level_rewards", "response_mask", "values", "reward_baselines")
    tensors = {name: given[name] for name in names}
    return SimpleNamespace(batch=tensors, non_tensor_batch={"uid": given["index"]})


@pytest.mark.parametrize("estimator", ["gae", "grpo", "rloo", "reinforce_plus_plus"])
def test_through_the_trainer(estimator: str, replaced: Any) -> None:
    """verl's `compute_advantage` calls GAE and GRPO directly, all else through its registry."""
    config = Config(gamma=0.97, use_pf_ppo=False)
    given = scenario("random")
    ours = ray_trainer.compute_advantage(batch(given), estimator, config=config)
    replaced.undo()
    theirs = ray_trainer.compute_advantage(batch(given), estimator, config=config)
    for part in ("advantages", "returns"):
        torch.testing.assert_close(ours.batch[part], theirs.batch[part], rtol=1e-4, atol=2e-5)


def test_our_methods_are_registered_by_the_plugin() -> None:
    for method in ap.methods():
        assert f"apportion_{method}" in core_algos.ADV_ESTIMATOR_REGISTRY
    given = scenario("random")
    config = Config(gamma=1.0, apportion={"scale": "none"})
    data = ray_trainer.compute_advantage(batch(given), "apportion_grpo", config=config)
    want = core_algos.compute_grpo_outcome_advantage(
        given["token_level_rewards"],
        given["response_mask"],
        given["index"],
        norm_adv_by_std_in_grpo=False,
    )[0]
    torch.testing.assert_close(data.batch["advantages"], want, rtol=1e-4, atol=1e-5)


def test_what_verl_does_not_hand_over_is_named() -> None:
    given = scenario("random")
    with pytest.raises(ap.MissingColumnError, match="anchors"):
        ray_trainer.compute_advantage(batch(given), "apportion_gigpo", config=Config())
