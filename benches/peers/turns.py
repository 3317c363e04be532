"""A2TGPO (arXiv:2605.06200) and MatchTIR (arXiv:2601.10712): loops over tokens.

Turns are found and advantages written token by token on tensors, as in their
forks of verl, written here from the published formulas.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch

EPS = 1e-6


def _spread(values: list[float], biased: bool) -> tuple[float, float]:
    """Mean, and the biased or unbiased standard deviation."""
    tensor = torch.tensor(values, dtype=torch.float64)
    mean = tensor.mean()
    if biased:
        return mean.item(), math.sqrt(tensor.var(correction=0).item() + 1e-8)
    return mean.item(), tensor.std().item()


def a2tgpo(
    token_rewards: Any, mask: Any, index: Any, gamma: float = 1.0, alpha: float = 0.3
) -> tuple[Any, Any]:
    """Advantages and clip scale `(N, T)`; gains lie at non-zero trained tokens."""
    rows, width = token_rewards.shape
    gains: list[list[tuple[int, float]]] = []
    outcomes: list[tuple[int, float]] = []
    for i in range(rows):
        last = -1
        for t in range(width):
            if mask[i, t] > 0:
                last = t
        outcomes.append((last, token_rewards[i, last].item()))
        own = []
        for t in range(last):
            if mask[i, t] > 0 and token_rewards[i, t] != 0:
                own.append((t, token_rewards[i, t].item()))
        gains.append(own)

    by_turn, by_prompt = defaultdict(list), defaultdict(list)
    for i in range(rows):
        by_prompt[index[i]].append(outcomes[i][1])
        for j, (_, gain) in enumerate(gains[i]):
            by_turn[index[i], j].append(gain)

    def normalised(value: float, members: list[float]) -> float:
        if len(members) == 1:
            return 0.0
        mean, std = _spread(members, biased=True)
        return (value - mean) / (std + EPS)

    advantages = torch.zeros(rows, width, dtype=torch.float64)
    clip_scale = torch.ones(rows, width, dtype=torch.float64)
    for i in range(rows):
        outcome = normalised(outcomes[i][1], by_prompt[index[i]])
        own = [normalised(gain, by_turn[index[i], j]) for j, (_, gain) in enumerate(gains[i])]
        sums, running = [0.0] * len(own), 0.0
        for j in range(len(own) - 1, -1, -1):
            running = own[j] + gamma * running
            sums[j] = running
        start = 0
        for j, (end, _) in enumerate([*gains[i], outcomes[i]]):
            value, scale = outcome, 1.0
            if j < len(own):
                value += alpha * sums[j] / math.sqrt(len(own) - j)
                scale = 1.0 + 0.3 * (2.0 / (1.0 + math.exp(-own[j])) - 1.0)
            for t in range(start, end + 1):
                if mask[i, t] > 0:
                    advantages[i, t] = value
                    clip_scale[i, t] = scale
            start = end + 1
    return advantages, clip_scale


def matchtir(token_rewards: Any, mask: Any, index: Any, lam: float = 0.9) -> Any:
    """Advantages `(N, T)`; a turn is a run of trained tokens, its reward at its end."""
    rows, width = token_rewards.shape
    spans: list[list[tuple[int, int]]] = []
    sums: list[list[float]] = []
    for i in range(rows):
        own, start = [], -1
        for t in range(width):
            if mask[i, t] > 0 and start < 0:
                start = t
            if mask[i, t] == 0 and start >= 0:
                own.append((start, t))
                start = -1
        if start >= 0:
            own.append((start, width))
        spans.append(own)
        running, discounted = 0.0, []
        for _, end in reversed(own):
            running = token_rewards[i, end - 1].item() + lam * running
            discounted.insert(0, running)
        sums.append(discounted)

    totals = token_rewards.sum(dim=-1)
    by_prompt, by_turn = defaultdict(list), defaultdict(list)
    for i in range(rows):
        by_prompt[index[i]].append(totals[i].item())
        for j, value in enumerate(sums[i]):
            by_turn[index[i], j].append(value)

    def normalised(value: float, members: list[float]) -> float:
        mean, std = _spread(members, biased=False) if len(members) > 1 else (0.0, 1.0)
        return (value - mean) / (std + EPS)

    advantages = torch.zeros(rows, width, dtype=torch.float64)
    for i in range(rows):
        trajectory = normalised(totals[i].item(), by_prompt[index[i]])
        for j, (start, end) in enumerate(spans[i]):
            value = (trajectory + normalised(sums[i][j], by_turn[index[i], j])) / 2
            for t in range(start, end):
                if mask[i, t] > 0:
                    advantages[i, t] = value
    return advantages
