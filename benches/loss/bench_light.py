"""The policy loss of log-probabilities that are there, with its gradient, against eager torch.

Eager is PPO as a trainer writes it, without the checks and the metrics that ours has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import apportion as ap

torch = pytest.importorskip("torch")

SIZES = [(16, 512), (64, 2048), (512, 4096)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def bench_light(compare: Callable[..., None], size: tuple[int, int]) -> None:
    old = -torch.rand(size)
    log_probs = (old + 0.1 * torch.randn(size)).requires_grad_()
    advantages, mask = torch.randn(size), torch.rand(size) < 0.8
    weights = mask.float()

    def ours() -> Any:
        loss, _ = ap.policy_loss(
            log_probs, old, advantages, mask, clip_high=0.28, log_ratio_bounds=None
        )
        return torch.autograd.grad(loss, log_probs)[0]

    def theirs() -> Any:
        ratio = torch.exp(log_probs - old)
        clipped = ratio.clamp(0.8, 1.28)
        losses = torch.maximum(-advantages * ratio, -advantages * clipped)
        loss = (losses * weights).sum() / weights.sum()
        return torch.autograd.grad(loss, log_probs)[0]

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-9)
    compare(f"ppo {size[0]}x{size[1]}", "eager torch", ours, theirs)
