"""The TRL integration by real training runs of a tiny random Qwen2 on the CPU."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from trl_runs import (
    PLAIN,
    batch,
    losses,
    sampled_log_probs,
    sometimes,
    total,
    train,
    trainer,
    two_turns,
    vowels,
    weights,
)

import apportion as ap
from apportion.integrations.trl import CreditMixin, GRPOTrainer, check_seam

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
@pytest.mark.parametrize("reward", [vowels, sometimes, [vowels, sometimes]])
def test_grpo_trains_as_trl_does(tmp_path: Path, scale_rewards: str, reward: Any) -> None:
    settings: dict[str, Any] = {**PLAIN, "scale_rewards": scale_rewards, "num_iterations": 2}
    if isinstance(reward, list):
        settings["reward_weights"] = [0.5, 2.0]
    theirs = trainer(trl.GRPOTrainer, tmp_path, reward, **settings)
    ours = trainer(GRPOTrainer, tmp_path, reward, **settings)
    start = weights(ours).clone()
    train(theirs)
    train(ours)
    assert np.allclose(losses(ours), losses(theirs), rtol=0, atol=2e-6)
    assert (weights(ours) - start).abs().max() > 1e-3
    assert torch.allclose(weights(ours), weights(theirs), rtol=0, atol=1e-6)


def test_gdpo_trains_as_trl_normalises_then_sums(tmp_path: Path) -> None:
    settings = {
        **PLAIN,
        "multi_objective_aggregation": "normalize_then_sum",
        "reward_weights": [0.5, 2.0],
    }
    theirs = trainer(trl.GRPOTrainer, tmp_path, [vowels, sometimes], **settings)
    ours = trainer(GRPOTrainer, tmp_path, [vowels, sometimes], credit="gdpo", **settings)
    train(theirs)
    train(ours)
    assert torch.allclose(weights(ours), weights(theirs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo"])
def test_one_value_a_row_or_a_token(tmp_path: Path, loss_type: str) -> None:
    run = trainer(GRPOTrainer, tmp_path, vowels, loss_type=loss_type, epsilon_high=0.3)
    out = batch(run)
    assert out["advantages"].shape == out["completion_mask"].shape
    assert out["advantages"].dtype == torch.float32
    out["old_per_token_logps"] = sampled_log_probs(run, out) - torch.linspace(-0.4, 0.4, 12)
    per_token = run._compute_loss(run.model, out)
    row = out["advantages"][:, 0]
    per_row = run._compute_loss(run.model, {**out, "advantages": row})
    assert abs(per_token.item()) > 1e-3
    assert torch.equal(per_token, per_row)


def test_columns_of_a_rollout_func(tmp_path: Path) -> None:
    seen = {}

    def keep(rollouts: ap.Rollouts) -> Any:
        seen["rollouts"] = rollouts
        return np.arange(rollouts.num_turns, dtype=np.float64)

    run = trainer(GRPOTrainer, tmp_path, total, two_turns, credit=keep)
    out = batch(run)
    rollouts = seen["rollouts"]
    assert list(np.diff(rollouts.turns[0])) == [1, 2, 2, 1, 2, 2, 1, 2]
    assert list(rollouts.groups) == [0] * 4 + [1] * 4
    assert len(rollouts.columns["anchors"]) == len(rollouts.columns["turn_rewards"]) == 13
    assert out["advantages"][1][:8].tolist() == [1, 1, 1, 1, 0, 0, 0, 2]
    assert (out["advantages"][out["tool_mask"] * out["completion_mask"] == 0] == 0).all()


def test_gigpo_trains(tmp_path: Path) -> None:
    options = {"gamma": 0.9}
    run = trainer(GRPOTrainer, tmp_path, total, two_turns, credit="gigpo", credit_options=options)
    start = weights(run).clone()
    run.train()
    assert (weights(run) - start).abs().max() > 1e-3
    logged = run.state.log_history[0]
    assert logged["credit/groups"] == 2 and logged["credit/zero_variance_share"] == 0
    assert 0 < logged["credit/step_singleton_share"] < 1

    out = batch(run)
    mask = out["completion_mask"] * out["tool_mask"]
    data = two_turns([f"{i // 4} = " for i in range(8)], run)
    rollouts = ap.Rollouts.from_padded(
        mask.numpy(),
        group_size=4,
        outcome_rewards=np.float32([sum(row) for row in data["turn_rewards"]]),
        turn_rewards=data["turn_rewards"],
        anchors=data["anchors"],
    )
    expected = ap.credit("gigpo", rollouts, **options).to_padded(dtype=np.float32)
    assert np.array_equal(out["advantages"].numpy(), expected)
    assert np.abs(expected).max() > 0.1


def test_columns_that_a_reward_function_logs(tmp_path: Path) -> None:
    def reward(completions: list[str], log_extra: Callable[..., None], **_: Any) -> list[float]:
        values = [[float(k)] for k in range(len(completions))]
        log_extra("turn_rewards", values)
        log_extra("anchors", [["start"]] * len(values))
        return [row[0] for row in values]

    run = trainer(GRPOTrainer, tmp_path, reward, credit=by_turn_reward, log_completions=False)
    out = batch(run)
    assert out["advantages"][:, 0].tolist() == list(range(8))
    assert list(run._logs["extra"]["turn_rewards"]) == [[float(k)] for k in range(8)]
    assert list(run._logs["advantages"]) == list(range(8))


def by_turn_reward(rollouts: ap.Rollouts) -> Any:
    return np.asarray(rollouts.columns["turn_rewards"], dtype=np.float64)


class Room:
    """What TRL asks of an environment, and what the tool loop left in it."""

    def __init__(self, turn_rewards: list[float], anchors: list[str]) -> None:
        self.turn_rewards = turn_rewards
        self.anchors = anchors

    def reset(self, **_: Any) -> None:
        """Leaves all as it is: the rollouts of this test come from `two_turns`."""


def test_columns_of_environments(tmp_path: Path) -> None:
    seen = {}

    def keep(rollouts: ap.Rollouts) -> Any:
        seen.update(rollouts.columns)
        return by_turn_reward(rollouts)

    def without_columns(prompts: list[str], trainer: Any) -> dict[str, Any]:
        out = two_turns(prompts, trainer)
        del out["turn_rewards"], out["anchors"]
        return out

    run = trainer(GRPOTrainer, tmp_path, vowels, without_columns, credit=keep)
    # Rows of one turn ended in a further state; rows of two turns on a closing message.
    rooms = [Room([1.0], ["a", "b"] if k % 3 == 0 else ["a", "c"]) for k in range(8)]
    run.environment_factories, run._environment_pool = {None: Room}, {None: rooms}
    batch(run)
    assert seen["turn_rewards"].tolist() == [1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 1, 0]
    assert seen["anchors"] == [*"a", *"ac", *"ac", *"a", *"ac", *"ac", *"a", *"ac"]

    rooms[2] = Room([1.0, 2.0, 3.0], ["a", "c"])
    with pytest.raises(ap.InputError, match=r"turn_rewards\[2\]: got 3 values, expected 2"):
        batch(run)


def test_a_clip_scale_moves_the_bounds(tmp_path: Path) -> None:
    run = trainer(GRPOTrainer, tmp_path, vowels, epsilon=0.2)
    out = batch(run)
    ratio = 1.3
    out["old_per_token_logps"] = sampled_log_probs(run, out) - math.log(ratio)
    out["advantages"] = torch.ones_like(out["advantages"])
    plain = run._compute_loss(run.model, out)
    one = torch.ones_like(out["advantages"])
    same = run._compute_loss(run.model, {**out, "credit_clip_scale": one})
    wide = run._compute_loss(run.model, {**out, "credit_clip_scale": 2 * one})
    assert torch.equal(plain, same)
    assert math.isclose(plain.item(), -1.2, rel_tol=1e-5)
    assert math.isclose(wide.item(), -ratio, rel_tol=1e-5)
    assert run.epsilon_low == run.epsilon_high == 0.2


def test_a_clip_scale_reaches_the_loss(tmp_path: Path) -> None:
    run = trainer(GRPOTrainer, tmp_path, total, two_turns, credit="a2tgpo", num_iterations=2)
    out = batch(run)
    assert out["credit_clip_scale"].shape == out["advantages"].shape
    run.train()
    assert all(math.isfinite(loss) for loss in losses(run))


def test_rewards_that_are_absent(tmp_path: Path) -> None:
    def reward(completions: list[str], **_: Any) -> list[float | None]:
        return [None, 1.0, 2.0, 3.0, None, None, None, None]

    run = trainer(GRPOTrainer, tmp_path, reward)
    out = batch(run)
    assert out["advantages"][:, 0].tolist() == pytest.approx([0, -1, 0, 1, 0, 0, 0, 0], abs=2e-4)
    assert run._metrics["train"]["credit/absent_rewards"] == [5]


def test_methods_on_tokens_get_the_reward_at_the_end(tmp_path: Path) -> None:
    run = trainer(GRPOTrainer, tmp_path, total, two_turns, credit=by_token_reward)
    assert (batch(run)["advantages"] == 0).all()  # a function gets what was given, no more

    seen = {}

    def reward(
        turn_rewards: list[list[float]], log_extra: Callable[..., None], **_: Any
    ) -> list[float]:
        seen["rewards"] = total(turn_rewards)
        log_extra("reward_baselines", [0.5] * len(turn_rewards))
        return seen["rewards"]

    run = trainer(GRPOTrainer, tmp_path, reward, two_turns, credit="remax")
    out = batch(run)
    assert out["advantages"][:, 0].tolist() == pytest.approx(
        [value - 0.5 for value in seen["rewards"]], abs=1e-6
    )


def rewards_alone(card: ap.MethodCard) -> bool:
    needed = {column.name for column in card.columns if column.required} - {"group_ids"}
    return bool(needed) and needed <= {"outcome_rewards", "token_rewards"}


@pytest.mark.parametrize("name", [n for n, card in ap.methods().items() if rewards_alone(card)])
def test_methods_that_need_rewards_alone_need_nothing_more(tmp_path: Path, name: str) -> None:
    def success(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(k % 3 == 0) for k in range(len(completion_ids))]

    advantages = batch(trainer(GRPOTrainer, tmp_path, success, credit=name))["advantages"]
    assert torch.isfinite(advantages).all() and (advantages != 0).any()


def by_token_reward(rollouts: ap.Rollouts) -> Any:
    assert "token_rewards" not in rollouts.columns
    return np.zeros(rollouts.layout.tokens)


def test_truncated_completions_have_no_turns(tmp_path: Path) -> None:
    run = trainer(
        GRPOTrainer,
        tmp_path,
        total,
        two_turns,
        credit=by_turn_reward,
        mask_truncated_completions=True,
    )
    assert (batch(run)["advantages"] == 0).all()


def test_with_a_subclass_of_ones_own(tmp_path: Path) -> None:
    class Own(trl.GRPOTrainer):
        def _calculate_rewards(
            self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
        ) -> Any:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            return rewards * 0 + torch.arange(8.0).unsqueeze(1)

    class Mixed(CreditMixin, Own):
        pass

    run = trainer(Mixed, tmp_path, vowels, credit="rloo")
    expected = torch.tensor([-2, -2 / 3, 2 / 3, 2] * 2)
    assert torch.allclose(batch(run)["advantages"][:, 0], expected)


def test_evaluation_uses_its_own_group_size(tmp_path: Path) -> None:
    run = trainer(
        GRPOTrainer, tmp_path, vowels, num_generations_eval=2, per_device_eval_batch_size=4
    )
    result = run.evaluate(eval_dataset=Dataset.from_dict({"prompt": ["a", "b"]}))
    assert result["eval_credit/groups"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"credit": "grop"}, "credit: got 'grop', expected one of .*grpo"),
        ({"credit_options": {"gama": 1}}, "credit_options: got 'gama', expected options of grpo"),
        ({"like": "tlr"}, "like: got 'tlr', expected a preset of grpo: verl"),
        ({"credit": by_turn_reward, "like": "trl"}, "has no presets"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "credit='gdpo'"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ap.OptionError, match=message):
        trainer(GRPOTrainer, tmp_path, vowels, **settings)


def test_a_missing_column_says_where_to_give_it(tmp_path: Path) -> None:
    run = trainer(GRPOTrainer, tmp_path, vowels, credit="igpo")
    with pytest.raises(ap.MissingColumnError, match=r"turn_rewards.*log_extra"):
        batch(run)


def test_turn_values_that_do_not_fit(tmp_path: Path) -> None:
    def reward(completions: list[str], log_extra: Callable[..., None], **_: Any) -> list[float]:
        log_extra("turn_rewards", logged)
        return [0.0] * len(completions)

    run = trainer(GRPOTrainer, tmp_path, reward, credit="igpo")
    logged: list[Any] = [[0.0]] * 7 + [[0.0, 1.0]]
    with pytest.raises(ap.InputError, match=r"turn_rewards\[7\]: got 2 values, expected 1"):
        batch(run)
    run._pending_extra_logs.clear()
    logged = [[0.0]] * 7
    with pytest.raises(ap.InputError, match="log_extra got 7 values, expected 8"):
        batch(run)
    run._pending_extra_logs.clear()
    logged = [None] * 8
    with pytest.raises(ap.InputError, match=r"turn_rewards\[0\]: got None, expected a list"):
        batch(run)


def test_another_trl_is_refused() -> None:
    class Other:
        def _calculate_rewards(self, batch: Any) -> None: ...

    with pytest.raises(ap.ExtraMissingError, match=r"_calculate_rewards are \['self', 'batch'\]"):
        check_seam(Other)


def test_without_trl_the_error_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "trl.py").write_text("raise ImportError('no trl')\n")
    code = "import apportion.integrations.trl"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "ExtraMissingError" in done.stderr and "pip install 'apportion[trl]'" in done.stderr


def test_a_group_across_two_processes(tmp_path: Path) -> None:
    script = Path(__file__).with_name("trl_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    command += [str(script), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
