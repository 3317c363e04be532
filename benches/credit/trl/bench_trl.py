"""TRL's advantages: one number a completion, consecutive groups, a few vector operations.

The formula stands inside a method of `GRPOTrainer`, so it is written out here, on
TRL's own `nanstd`. There is nothing to win in time; what ours adds is credit by
token and turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import apportion as ap

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
from trl.trainer.utils import nanstd  # noqa: E402

GENERATIONS = 8


def theirs(rewards: Any) -> Any:
    """`sum_then_normalize` over one reward function, scaled by group."""
    total = rewards.nansum(dim=1)
    total[torch.isnan(rewards).all(dim=1)] = torch.nan
    groups = total.view(-1, GENERATIONS)
    mean = torch.nanmean(groups, dim=1).repeat_interleave(GENERATIONS, dim=0)
    std = nanstd(groups, dim=1).repeat_interleave(GENERATIONS, dim=0)
    return torch.nan_to_num((total - mean) / (std + 1e-4), nan=0.0)


def ours(rewards: Any) -> Any:
    rollouts = ap.Rollouts.from_padded(
        torch.ones_like(rewards), group_size=GENERATIONS, reward_matrix=rewards
    )
    return ap.credit("grpo", rollouts, like="trl").to_padded()


@pytest.mark.parametrize("rows", [64, 65536])
def bench_formula(compare: Callable[..., None], rows: int) -> None:
    rewards = torch.randn(rows, 1, generator=torch.Generator().manual_seed(0))
    mine, peers = ours(rewards[:64])[:, 0], theirs(rewards[:64])
    np.testing.assert_allclose(mine.numpy(), peers.numpy(), rtol=1e-4, atol=1e-5)
    compare(f"grpo {rows} rewards", "TRL", lambda: ours(rewards), lambda: theirs(rewards))
