"""One token for each row of logits, by a number that is drawn beforehand.

Depends on torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from apportion.errors import OptionError


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled: `top_k` 0 and `top_p` 1 leave all of them."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise OptionError(f"temperature: got {self.temperature}, expected at least 0")
        if self.top_k < 0:
            raise OptionError(f"top_k: got {self.top_k}, expected at least 0")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p: got {self.top_p}, expected a number in (0, 1]")


def choose(
    logits: torch.Tensor,
    draws: Sequence[float | None],
    ranks: Sequence[int | None],
    sampling: Sampling,
) -> tuple[list[int], list[float]]:
    """A token of each row of `(rows, vocabulary)` and its log-prob at temperature 1.

    A row with a rank takes the token of that rank, 0 being the likeliest; one with a draw
    in [0, 1) the token at which the cumulative probability exceeds it; others, and all at
    temperature 0, the likeliest.
    """
    tokens = logits.argmax(-1)
    ranked = [i for i, rank in enumerate(ranks) if rank is not None]
    drawn = [i for i, draw in enumerate(draws) if draw is not None and ranks[i] is None]
    if ranked:
        places = torch.tensor([ranks[i] for i in ranked], device=logits.device)
        order = logits[ranked].topk(int(places.max()) + 1).indices
        tokens[ranked] = order.gather(-1, places[:, None])[:, 0]
    if drawn and sampling.temperature > 0:
        uniform = torch.tensor([draws[i] for i in drawn], dtype=torch.float64)
        tokens[drawn] = _sample(logits[drawn], uniform.to(logits.device), sampling)
    log_probs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    return tokens.tolist(), log_probs.tolist()


def _sample(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    logits = logits.double() / sampling.temperature
    if sampling.top_k:
        least = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        # Likeliest tokens until they hold top_p together, the last of them included.
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = probabilities.masked_fill(
            torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0
        )
    cumulative = probabilities.cumsum(-1)
    # Below the sum, whatever rounding made of it, and beyond tokens of probability 0.
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]
