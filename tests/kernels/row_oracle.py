"""Log-probabilities, entropies and their gradients by torch's own softmax, in float64."""

from __future__ import annotations

from typing import Any

import torch


def row_oracle(
    logits: torch.Tensor,
    targets: torch.Tensor,
    mask: torch.Tensor | None = None,
    temperature: Any = 1.0,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiable; a masked row is cut out, so it gets no gradient."""
    rows = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask.bool()
    z = logits[rows].double()
    if softcap is not None:
        z = softcap * (z / softcap).tanh()
    each = torch.as_tensor(temperature, dtype=torch.float64)
    if each.dim() == 1 and targets.dim() == 2:
        each = each[:, None]
    z = z / each.expand(targets.shape)[rows][:, None]
    log_p = z.log_softmax(-1)
    own = log_p.gather(-1, targets[rows][:, None]).squeeze(-1)
    seen = torch.where(log_p == -torch.inf, 0.0, log_p)
    entropy = -(log_p.exp() * seen).sum(-1)
    results = torch.zeros((2, *targets.shape), dtype=torch.float64)
    return results[0].index_put((rows,), own), results[1].index_put((rows,), entropy)


def gradients(
    results: tuple[torch.Tensor, torch.Tensor | None], upstream: Any, logits: torch.Tensor
) -> torch.Tensor:
    """Of a weighted sum of both results; a masked row's weight is 0."""
    total = (results[0] * upstream[0]).sum()
    if results[1] is not None:
        total = total + (results[1] * upstream[1]).sum()
    return torch.autograd.grad(total, logits)[0]
