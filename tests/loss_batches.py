"""Batches for the tests of policy losses. Needs torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import apportion as ap

LOSSES = sorted(ap.losses())
BY_BATCH = {"clip_cov", "kl_cov"}  # they choose tokens among those of the call
ROWS, WIDTH = 5, 9


def batch(seed: int, spread: float = 0.3) -> dict[str, Any]:
    """Float64 tensors with gaps inside rows and one empty row."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, WIDTH)
    mask = rng.random(shape) < 0.7
    mask[2] = False
    mask[0, 0] = True
    old = -rng.exponential(1.0, shape)
    return {
        "log_probs": torch.from_numpy(old + spread * rng.standard_normal(shape)).requires_grad_(),
        "old_log_probs": torch.from_numpy(old),
        "advantages": torch.from_numpy(rng.standard_normal(shape)),
        "mask": torch.from_numpy(mask),
    }


def extras(seed: int) -> dict[str, Any]:
    """Everything that a loss may take beside the four."""
    rng = np.random.default_rng(seed + 100)
    shape = (ROWS, WIDTH)
    return {
        "ref_log_probs": torch.from_numpy(-rng.exponential(1.0, shape)),
        "rollout_log_probs": torch.from_numpy(-rng.exponential(1.0, shape)),
        "rollout_weights": torch.from_numpy(rng.uniform(0.5, 2.0, shape)),
        "entropies": torch.from_numpy(rng.uniform(0.0, 3.0, shape)),
        "kl_coef": 0.1,
        "off_policy_threshold": 0.2,
    }


def run(inputs: dict[str, Any], **options: Any) -> tuple[Any, dict[str, Any]]:
    names = ("log_probs", "old_log_probs", "advantages", "mask")
    others = {k: v for k, v in inputs.items() if k not in names}
    return ap.policy_loss(*(inputs[n] for n in names), **others, **options)


PROMPTS = np.array([0, 0, 1, 1, 2])  # which prompt a row answers


def prompt_counts(mask: Any) -> dict[str, Any]:
    """What `prompt-mean` must know: the prompts, and the tokens of each row's."""
    lengths = torch.as_tensor(mask).sum(-1).double()
    tokens = [lengths[prompt == PROMPTS].sum() for prompt in PROMPTS]
    return {"num_prompts": 3, "prompt_tokens": torch.stack(tokens)}


def slope(loss: Any, of: Any) -> np.ndarray:
    return torch.autograd.grad(loss, of)[0].numpy()
