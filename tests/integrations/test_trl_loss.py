"""`loss="apportion"` in TRL: equal to TRL's own loss, by one step and by training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trl
from trl_runs import PLAIN, losses, sampled_log_probs, train, trainer, two_turns, vowels, weights

import apportion as ap
from apportion.integrations.trl import GRPOTrainer

pytestmark = pytest.mark.filterwarnings("ignore")

LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
HALVES = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}

# Attributes of the trainer, and of its arguments, that change the loss.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"importance_sampling_level": "sequence", "beta": 0.1},
    {"beta": 0.2, "args.use_bias_correction_kl": True, "args.delta": 1.1},
    {"top_entropy_quantile": 0.6, "off_policy_mask_threshold": 0.01},
    {"use_vllm": True, "vllm_importance_sampling_correction": True, "beta": 0.1},
    {"use_vllm": True, "vllm_importance_sampling_correction": True, "of_sequences": True},
    {"entropy_coef": 0.3, "_entropy_bonus_enabled": True, "top_entropy_quantile": 0.5},
    {"per_row": True, "evaluated": True},
]


def prepared(run: Any, settings: dict[str, Any]) -> Any:
    """A batch whose policies all differ, in the trainer with these settings."""
    run.model.train()
    rows = [{"prompt": f"{i // 4} = "} for i in range(8)]
    run.current_gradient_accumulation_steps = 2
    out = run._generate_and_score_completions(rows)
    source = torch.Generator().manual_seed(5)
    own = sampled_log_probs(run, out)

    def near(spread: float) -> torch.Tensor:
        return own + spread * torch.randn(own.shape, generator=source)

    out["old_per_token_logps"], out["ref_per_token_logps"] = near(0.3), near(0.3)
    out["sampling_per_token_logps"] = near(0.1)
    if "use_vllm" in settings:
        mask = out["completion_mask"] * out["tool_mask"]
        logs = (out["old_per_token_logps"] - out["sampling_per_token_logps"]) * mask
        if "of_sequences" in settings:
            logs = logs.sum(dim=-1, keepdim=True)
        out["importance_sampling_ratio"] = logs.exp().clamp(max=1.5)
    if "per_row" in settings:
        out["advantages"] = out["advantages"][:, 0]
    if "evaluated" in settings:
        run.model.eval()
    for name, value in settings.items():
        owner = run.args if name.startswith("args.") else run
        setattr(owner, name.removeprefix("args."), value)
    return out


def step(run: Any, kind: Any, out: Any) -> tuple[float, torch.Tensor]:
    run.model.zero_grad()
    loss = kind._compute_loss(run, run.model, out)
    loss.backward()
    grads = [p.grad.reshape(-1) for p in run.model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(grads)


@pytest.mark.parametrize("number", range(len(SETTINGS)))
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_one_step_is_that_of_trl(tmp_path: Path, loss_type: str, number: int) -> None:
    run = trainer(
        GRPOTrainer,
        tmp_path,
        vowels,
        two_turns,
        loss="apportion",
        loss_type=loss_type,
        epsilon=0.1,
        epsilon_high=1.3 if loss_type == "cispo" else 0.15,
    )
    out = prepared(run, SETTINGS[number])
    want, want_grad = step(run, trl.GRPOTrainer, out)
    entropy = run._metrics["eval" if "evaluated" in SETTINGS[number] else "train"]["entropy"][-1]
    got, got_grad = step(run, GRPOTrainer, out)
    assert got == pytest.approx(want, rel=2e-5, abs=1e-7)
    scale = want_grad.abs().max().item()
    assert scale > 1e-5
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-3, atol=1e-5 * scale)
    metrics = run._metrics["eval" if "evaluated" in SETTINGS[number] else "train"]
    assert metrics["entropy"][-1] == pytest.approx(entropy, rel=1e-5)
    assert "loss/approx_kl" in metrics


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_it_trains_as_trl_does(tmp_path: Path, loss_type: str) -> None:
    settings = {**PLAIN, **HALVES, "num_iterations": 2, "loss_type": loss_type, "max_steps": 2}
    theirs = trainer(trl.GRPOTrainer, tmp_path, vowels, **settings)
    ours = trainer(GRPOTrainer, tmp_path, vowels, loss="apportion", **settings)
    start = weights(ours).clone()
    train(theirs)
    train(ours)
    assert np.allclose(losses(ours), losses(theirs), rtol=0, atol=2e-6)
    assert (weights(ours) - start).abs().max() > 1e-4
    assert torch.allclose(weights(ours), weights(theirs), rtol=0, atol=2e-6)


@pytest.mark.parametrize("loss_type", ["dapo", "cispo"])
def test_a_clip_scale_moves_our_bounds_as_trls(tmp_path: Path, loss_type: str) -> None:
    run = trainer(GRPOTrainer, tmp_path, vowels, two_turns, loss_type=loss_type, epsilon_high=1.1)
    out = prepared(run, {})
    source = torch.Generator().manual_seed(1)
    out["credit_clip_scale"] = 0.8 + torch.rand(out["advantages"].shape, generator=source)
    want, want_grad = step(run, GRPOTrainer, out)
    run.loss_name = "apportion"
    got, got_grad = step(run, GRPOTrainer, out)
    assert got == pytest.approx(want, rel=2e-5)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-3, atol=1e-7)


def test_options_of_the_loss(tmp_path: Path) -> None:
    """Ratios of turns, which TRL has not: the loss that `policy_loss` gives on the batch."""
    options = {"ratio": "turn", "ratio_grad": "mean", "clip_low": 0.01, "clip_high": 0.02}
    settings = {"loss": "apportion", "loss_options": options, "loss_type": "bnpo"}
    run = trainer(GRPOTrainer, tmp_path, vowels, two_turns, **settings)
    out = prepared(run, {})
    run.current_gradient_accumulation_steps = 1
    got, _ = step(run, GRPOTrainer, out)
    mask = out["completion_mask"] * out["tool_mask"]
    given = sampled_log_probs(run, out), out["old_per_token_logps"], out["advantages"], mask
    want, _ = ap.policy_loss(*given, like="trl", loss="bnpo", **options)
    plain, _ = ap.policy_loss(*given, like="trl", loss="bnpo")
    assert got == pytest.approx(want.item(), rel=1e-5) != pytest.approx(plain.item(), rel=1e-3)
    run.train()
    assert all(np.isfinite(losses(run)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "ppo"}, "loss: got 'ppo', expected 'trl' or 'apportion'"),
        ({"loss_options": {"ratio": "turn"}}, "loss_options: got .* expected none with loss='trl'"),
        (
            {"loss": "apportion", "loss_options": {"tau_pos": 1.0}},
            "loss 'ppo': unknown option 'tau_pos'",
        ),
        (
            {"loss": "apportion", "use_adaptive_entropy": True, "entropy_target": 0.5},
            "use_adaptive_entropy: got True",
        ),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ap.OptionError, match=message):
        trainer(GRPOTrainer, tmp_path, vowels, **settings)
