"""Bad input to policy losses: an error that names the argument, before anything is computed."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import apportion as ap  # noqa: E402
from loss_batches import ROWS, WIDTH, batch, run, slope  # noqa: E402

BAD: list[tuple[dict[str, Any], str]] = [
    ({"old_log_probs": "a"}, "old_log_probs: got str, expected a tensor or an array of numbers"),
    ({"advantages": None}, "advantages: got NoneType, expected a tensor or an array"),
    ({"mask": None}, "mask: got NoneType, expected a tensor or an array"),
    ({"mask": torch.ones(ROWS, WIDTH).to_sparse()}, "mask: got layout torch.sparse_coo"),
    ({"turns": [["a"]], "ratio": "turn"}, "turns: got list, expected a tensor or an array"),
    ({"ratio": "segment", "segment_offsets": "a"}, "segment_offsets: got str, expected"),
    ({"loss": "clip_cov", "generator": 3}, "generator: got int, expected a torch.Generator"),
    ({"clip_low": "a"}, "clip_low: got str, expected a tensor or an array"),
    (
        {"clip_high": torch.full((ROWS, WIDTH), math.nan)},
        r"clip_high\[0, 0\]: got nan, expected at least 0",
    ),
    ({"dual_clip": torch.ones(ROWS, WIDTH)}, r"dual_clip: got shape \(5, 9\), expected a number"),
    ({"dual_clip": torch.tensor(0.5)}, "dual_clip: got 0.5, expected a number above 1.0"),
    ({"ratio_cap": torch.ones(3)}, r"ratio_cap: got shape \(3,\), expected \(5, 9\)"),
    ({"old_log_probs": torch.ones(ROWS, WIDTH, device="meta")}, "old_log_probs: got device meta"),
    ({"mask": torch.ones(ROWS, WIDTH, device="meta")}, "mask: got device meta, expected cpu"),
    ({"advantages": torch.ones(ROWS, 2)}, r"advantages: got shape \(5, 2\), expected \(5, 9\)"),
    ({"dual_clip": "3"}, "dual_clip: got '3', expected a number above 1.0 or None"),
    ({"scale_factor": -1.0}, "scale_factor: got -1.0, expected a number above 0"),
    ({"count_rows": "some"}, "count_rows: got 'some', expected one of valid, all"),
    ({"ratio_grad": "both"}, "ratio_grad: got 'both', expected one of token, mean"),
    ({"turns": "runs", "ratio": "turn"}, "turns: got 'runs', expected one of equal-advantages"),
    ({"loss": "pppo"}, "loss: got 'pppo', expected one of .*ppo"),
    ({"like": "veri"}, "like: got 'veri', expected one of verl"),
    ({"like": "trl", "loss": "vanilla"}, "loss .*: got 'vanilla', expected one of dapo"),
    ({"kl_times_ratio": "no"}, "kl_times_ratio: got 'no', expected True or False"),
    ({"loss": "dppo_tv", "stop_ratio": 0}, "stop_ratio: got 0, expected True or False"),
    ({"unmasked": True}, "unknown option 'unmasked', expected one of .*clip_high"),
    ({"clip_hi": 0.2}, "unknown option 'clip_hi', expected one of .*clip_high"),
    ({"loss": "gpg", "clip_low": 0.2}, "unknown option 'clip_low'"),
    ({"ratio": "step"}, "ratio: got 'step', expected one of token, turn, segment, sequence"),
    ({"ratio": "segment"}, "segment_offsets: got none"),
    ({"segment_offsets": [0, 45]}, "segment_offsets: got some, expected none .*'token'"),
    ({"ratio": "segment", "segment_offsets": [0, 9, 46]}, "segment_offsets: .*from 0 to 45"),
    ({"ratio": "segment", "segment_offsets": [0, 9, 4, 45]}, r"segment_offsets\[2\]: got 4"),
    (
        {"ratio": "segment", "segment_offsets": [0, 4, 12, 45]},
        r"segment_offsets\[2\]: got 12, expected at most 9",
    ),
    ({"ratio": "segment", "segment_offsets": [0.0, 45.0]}, "segment_offsets: got torch.float64"),
    ({"loss_agg_mode": "prompt-mean"}, "num_prompts: got none"),
    ({"loss_agg_mode": "prompt-mean", "num_prompts": 2}, "prompt_tokens: got none"),
    (
        {"loss_agg_mode": "prompt-mean", "num_prompts": 2, "prompt_tokens": torch.ones(3)},
        r"prompt_tokens: got shape \(3,\), expected \(5,\)",
    ),
    ({"loss": "cispo", "outside": "cut"}, "outside: got 'cut', expected one of clip, drop"),
    ({"loss": "cispo", "ratio_cap": 0.5}, "ratio_cap: got 0.5, expected at least 1 - clip_low"),
    ({"loss": "dro", "beta": 0.0}, "beta: got 0.0, expected a number above 0"),
    ({"loss": "clip_cov", "cov_low": 5.0, "cov_high": 1.0}, "cov_high: got 1.0, expected above"),
    ({"log_ratio_bounds": ("a", 1)}, "log_ratio_bounds: got 'a'"),
    ({"rollout_weights": torch.ones(2, 2)}, r"rollout_weights: got shape \(2, 2\)"),
    ({"old_log_probs": torch.ones(ROWS, WIDTH, dtype=torch.complex64)}, "got torch.complex64"),
    ({"loss_agg_mode": "mean"}, "loss_agg_mode: got 'mean', expected one of token-mean"),
    ({"clip_low": -0.1}, "clip_low: got -0.1, expected a number at least 0"),
    ({"dual_clip": 1.0}, "dual_clip: got 1.0, expected a number above 1"),
    ({"kl_coef": math.nan}, "kl_coef: got nan"),
    ({"kl_coef": 0.1}, "ref_log_probs: got none"),
    ({"kl_coef": 0.1, "kl_kind": "k4"}, "kl_kind: got 'k4'"),
    ({"top_entropy": 0.5}, "entropies: got none"),
    ({"top_entropy": 0.0}, "top_entropy: got 0.0, expected a number above 0"),
    ({"dp_size": 2}, "num_tokens: got none"),
    ({"num_tokens": 0}, "num_tokens: got 0, expected a number above 0"),
    ({"log_ratio_bounds": 20.0}, "log_ratio_bounds: got 20.0"),
    ({"log_ratio_bounds": (2.0, -2.0)}, "log_ratio_bounds: got .*, expected low below high"),
    ({"mask": torch.full((ROWS, WIDTH), 2)}, r"mask\[0, 0\]: got 2, expected 0 or 1"),
    ({"mask": torch.ones(WIDTH, ROWS)}, r"mask: got shape \(9, 5\)"),
    ({"old_log_probs": torch.ones(3)}, r"old_log_probs: got shape \(3,\)"),
    ({"advantages": torch.ones(3)}, r"advantages: got shape \(3,\)"),
    ({"offsets": [0, 5]}, "offsets: got some, expected none"),
    ({"log_probs": torch.ones(ROWS, WIDTH, dtype=torch.int64)}, "got torch.int64"),
    ({"turns": torch.ones(ROWS, WIDTH), "ratio": "turn"}, "turns: got torch.float32"),
    ({"clip_scale": torch.full((ROWS, WIDTH), -1.0)}, r"clip_scale\[0, 0\]: got -1.0"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    inputs = batch(12)
    inputs["mask"] = torch.ones(ROWS, WIDTH, dtype=torch.bool)
    with pytest.raises(ap.InputError, match=message):
        run({**inputs, **change})


@pytest.mark.parametrize(
    ("offsets", "message"),
    [([0, 3], "from 0 to 4"), ([1, 4], "from 0 to 4"), ([0, 3, 2, 4], r"offsets\[2\]: got 2")],
)
def test_bad_offsets(offsets: list[int], message: str) -> None:
    x = torch.ones(4)
    with pytest.raises(ap.InputError, match=message):
        ap.policy_loss(x, x, x, x, offsets=offsets)


def test_importing_without_torch_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import apportion as ap\n"
        "try: ap.policy_loss\n"
        "except ap.ExtraMissingError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'apportion[torch]'" in out.stdout


def test_credit_of_another_batch_is_refused() -> None:
    credit = ap.credit(
        "grpo", ap.Rollouts.from_padded(np.ones((2, 3)), group_ids=[0, 0], outcome_rewards=[0, 1.0])
    )
    x = torch.zeros(2, 4)
    with pytest.raises(ap.InputError, match="advantages: got credit of 6 tokens, expected 8"):
        ap.policy_loss(x, x, credit, torch.ones(2, 4))


def test_a_penalty_outside_the_mask_is_zero() -> None:
    inputs = batch(15)
    reference = inputs["old_log_probs"].masked_fill(~inputs["mask"], math.nan)
    penalty = ap.kl_penalty(inputs["log_probs"], reference, "k3+", mask=inputs["mask"])
    assert not penalty[~inputs["mask"]].any() and torch.isfinite(penalty).all()
    assert np.isfinite(slope(penalty.sum(), inputs["log_probs"])).all()
    with pytest.raises(ap.InputError, match=r"mask: got shape \(2,\)"):
        ap.kl_penalty(inputs["log_probs"], reference, mask=torch.ones(2))
    with pytest.raises(ap.InputError, match=r"mask\[0, 0\]: got 0.5, expected 0 or 1"):
        ap.kl_penalty(inputs["log_probs"], reference, mask=torch.full((ROWS, WIDTH), 0.5))
    with pytest.raises(ap.InputError, match=r"log_probs: got torch\.int64, expected a torch"):
        ap.kl_penalty(torch.ones(2, dtype=torch.int64), torch.ones(2))


def test_a_controller_keeps_its_coefficient_where_the_divergence_is_no_number() -> None:
    controller = ap.AdaptiveKLController(coef=0.2, target=6.0, horizon=100.0)
    with pytest.raises(ap.InputError, match="kl: got nan, expected a finite number"):
        controller.update(math.nan, 1)
    assert controller.coef == 0.2
    for wrong in ({"coef": math.nan}, {"coef": "a"}, {"target": 0.0}, {"horizon": -1.0}):
        with pytest.raises(ap.OptionError, match=f"{next(iter(wrong))}: got .*, expected a number"):
            ap.AdaptiveKLController(**{"coef": 0.2, "target": 6.0, "horizon": 1.0, **wrong})
