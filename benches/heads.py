"""Hidden states and a head for the benchmarks of the loss, and what eager torch does with them.

May depend on torch and apportion. One row of numbers is a token; a loss is PPO's on
tokens, with the entropy computed beside it, as trainers log it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import apportion as ap

HEADS = {49152: 960, 151936: 896}
"""Vocabularies, and the width of the hidden states: SmolLM2-360M's and Qwen2.5-0.5B's."""


@dataclass
class Batch:
    hidden: Any
    weight: Any
    targets: Any
    old_log_probs: Any
    advantages: Any
    mask: Any

    def loss(self, log_probs: Any) -> Any:
        """PPO's loss as trainers write it, a mean over tokens."""
        ratio = torch.exp(log_probs - self.old_log_probs)
        clipped = ratio.clamp(0.8, 1.28)
        losses = torch.maximum(-self.advantages * ratio, -self.advantages * clipped)
        return (losses * self.mask).sum() / self.mask.sum()

    def step(self, log_probs: Callable[[], tuple[Any, Any]]) -> tuple[Any, ...]:
        """Loss, and gradients of hidden states and head, from a way to log-probabilities."""
        return self._with_gradients(self.loss(log_probs()[0]))

    def ours(self, **options: Any) -> tuple[Any, ...]:
        """The same by `linear_policy_loss`."""
        loss, _ = ap.linear_policy_loss(
            self.hidden,
            self.weight,
            self.targets,
            self.old_log_probs,
            self.advantages,
            self.mask,
            offsets=torch.tensor([0, len(self.targets)]),
            clip_low=0.2,
            clip_high=0.28,
            log_ratio_bounds=None,
            check=False,
            **options,
        )
        return self._with_gradients(loss)

    def _with_gradients(self, loss: Any) -> tuple[Any, ...]:
        """Nothing stays behind, so that the next run's memory is all its own."""
        leaves = [x for x in (self.hidden, self.weight) if x.requires_grad]
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    def eager(self) -> tuple[Any, Any]:
        return eager(self.hidden @ self.weight.t(), self.targets)


def eager(logits: Any, targets: Any) -> tuple[Any, Any]:
    """Log-probabilities and entropy in the shortest way."""
    every = logits.log_softmax(-1)
    log_probs = every.gather(-1, targets[:, None]).squeeze(-1)
    return log_probs, -(every.exp() * every).sum(-1)


def batch(tokens: int, vocabulary: int, trained: bool = True) -> Batch:
    """Random, in float32; logits have a spread of about 3."""
    width = HEADS.get(vocabulary, 64)
    maker = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, width, generator=maker)
    weight = torch.randn(vocabulary, width, generator=maker) * (3 / width**0.5)
    old = -torch.rand(tokens, generator=maker) * 12
    return Batch(
        hidden.requires_grad_(),
        weight.requires_grad_(trained),
        torch.randint(vocabulary, (tokens,), generator=maker),
        old,
        torch.randn(tokens, generator=maker),
        torch.ones(tokens),
    )


def check_equal(first: Callable[[Batch], Any], second: Callable[[Batch], Any]) -> None:
    """Both give the same loss and gradients on a small batch."""
    small = batch(37, 1000)
    for mine, theirs in zip(first(small), second(small), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
