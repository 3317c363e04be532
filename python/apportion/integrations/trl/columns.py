"""What a method reads, found in a TRL trainer and brought into shape. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from apportion.credit import Credit
from apportion.errors import InputError
from apportion.methods import Column, columns, methods

Function = Callable[..., Any]

FROM_TRAINER = {"group_ids", "outcome_rewards", "reward_matrix"}


def wanted(credit: str | Function) -> dict[str, Column]:
    """Columns that the method may read and that are not the trainer's own."""
    known = columns() if callable(credit) else {c.name: c for c in methods()[credit].columns}
    return {name: column for name, column in known.items() if name not in FROM_TRAINER}


def find(trainer: Any, name: str, inputs: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """A column's value for each completion of this process, or None if nobody has it."""
    logged = trainer._pending_extra_logs.get(name)
    if logged is not None:
        if len(logged) != len(inputs):
            raise InputError(
                f"{name}: log_extra got {len(logged)} values, expected {len(inputs)}, one a "
                "completion, from one reward function"
            )
        return list(logged)
    if any(name in row for row in inputs):
        return [row.get(name) for row in inputs]
    environments = trainer.environments or []
    if any(hasattr(environment, name) for environment in environments):
        # Copied: environments are reused, and their lists are emptied by the next reset.
        values = [getattr(environment, name, None) for environment in environments]
        return [None if value is None else list(value) for value in values]
    return None


def count_turns(mask: Any) -> list[int]:
    """Runs of 1 in each row."""
    trained = mask.bool()
    starts = trained.clone()
    starts[:, 1:] &= ~trained[:, :-1]
    return [int(count) for count in starts.sum(dim=1)]


def fit_turns(
    name: str, values: Sequence[Any], counts: Sequence[int], ends_open: bool
) -> list[Any]:
    """Turn values of the rows that have turns; `ends_open`: as a tool loop may end."""
    fitted = []
    for index, (row, count) in enumerate(zip(values, counts, strict=True)):
        if row is None or isinstance(row, str) or not hasattr(row, "__len__"):
            raise InputError(f"{name}[{index}]: got {row!r}, expected a list with one value a turn")
        own = list(row)
        if count == 0:
            own = []
        elif ends_open and name == "turn_rewards" and len(own) == count - 1:
            own.append(0.0)
        elif ends_open and name != "turn_rewards" and len(own) == count + 1:
            own.pop()
        fitted.append(own)
    return fitted


def pad(name: str, rows: Sequence[Any], mask: Any) -> Any:
    """Lists of token values as a tensor in the mask's shape, 0 after their end."""
    padded = torch.zeros(mask.shape, dtype=torch.float32)
    for index, row in enumerate(rows):
        if row is None or len(row) > mask.shape[1]:
            got = None if row is None else len(row)
            raise InputError(
                f"{name}[{index}]: got {got} values, expected one a token of the completion"
            )
        padded[index, : len(row)] = torch.as_tensor(row, dtype=torch.float32)
    return padded.to(mask.device)


def at_last_token(rewards: Any, mask: Any) -> Any:
    """`(N, T)` with each row's reward on its last token in the mask, 0 elsewhere."""
    last = (mask.bool().long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
    spread = torch.zeros(mask.shape, dtype=rewards.dtype, device=mask.device)
    spread[torch.arange(len(mask), device=mask.device), last] = rewards
    return spread


def row_means(credit: Credit) -> list[float]:
    """Mean credit over the trained tokens of each row."""
    sums = credit.to_padded(dtype=np.float64).sum(dim=1).cpu().numpy()
    means: list[float] = (sums / np.maximum(credit.rollouts.lengths, 1)).tolist()
    return means
