"""The policy loss of log-probabilities that are there, with its gradient, against eager torch.

Eager is PPO as a trainer writes it: the bare formula; and with the bounds of the log ratio
and the two metrics that ours has as well. Neither checks its arguments, nor keeps NaN
outside the mask out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import apportion as ap

torch = pytest.importorskip("torch")

SIZES = [(16, 512), (64, 2048), (512, 4096)]


Eager = Callable[..., tuple[Any, ...]]


def bare(log_probs: Any, old: Any, advantages: Any, mask: Any) -> tuple[Any, ...]:
    """The loss alone."""
    ratio = torch.exp(log_probs - old)
    clipped = ratio.clamp(0.8, 1.28)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    return ((losses * mask).sum() / mask.sum(),)


def with_metrics(log_probs: Any, old: Any, advantages: Any, mask: Any) -> tuple[Any, ...]:
    """Loss, divergence from the old policy, and the share of tokens that are clipped."""

    def mean(values: Any) -> Any:
        return (values * mask).sum() / (mask.sum() + 1e-8)

    log_ratio = (log_probs - old).clamp(-20.0, 20.0)
    ratio = log_ratio.exp()
    first, second = -advantages * ratio, -advantages * ratio.clamp(0.8, 1.28)
    clipped = mean((second > first).float())
    return mean(torch.maximum(first, second)), mean(-log_ratio).detach(), clipped.detach()


@pytest.mark.parametrize("eager", [bare, with_metrics], ids=["bare", "with metrics"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def bench_light(compare: Callable[..., None], size: tuple[int, int], eager: Eager) -> None:
    torch.manual_seed(0)
    old = -torch.rand(size)
    log_probs = (old + 0.1 * torch.randn(size)).requires_grad_()
    advantages, mask = torch.randn(size), torch.rand(size) < 0.8
    weights, bounds = mask.float(), None if eager is bare else (-20.0, 20.0)

    def ours() -> tuple[Any, ...]:
        loss, metrics = ap.policy_loss(
            log_probs, old, advantages, mask, clip_high=0.28, log_ratio_bounds=bounds
        )
        return loss, *metrics.values()

    def theirs() -> tuple[Any, ...]:
        return eager(log_probs, old, advantages, weights)

    def run(function: Callable[[], tuple[Any, ...]]) -> Any:
        return torch.autograd.grad(function()[0], log_probs)[0]

    for mine, other in zip(ours(), theirs(), strict=False):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)  # means near 0
    mine, other = run(ours), run(theirs)
    assert (mine - other).norm() <= 1e-3 * other.norm()  # a ratio on its bound may differ
    peer = "eager torch" if eager is bare else "eager torch, with metrics"
    compare(f"ppo {size[0]}x{size[1]}", peer, lambda: run(ours), lambda: run(theirs))
