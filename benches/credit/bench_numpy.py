"""Vectorised NumPy that knows its groups are consecutive: what there is to win at least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from batches import GROUP_SIZE, Padded, padded
from peers import vectorised

import apportion as ap


def ours(method: str, batch: Padded) -> Any:
    rollouts = ap.Rollouts.from_padded(
        batch.mask, group_size=GROUP_SIZE, token_rewards=batch.rewards
    )
    return ap.credit(method, rollouts).to_padded()


def theirs(method: str, batch: Padded) -> Any:
    return getattr(vectorised, method)(batch.rewards, batch.mask, GROUP_SIZE)


@pytest.mark.parametrize("method", ["grpo", "rloo"])
@pytest.mark.parametrize("size", [(64, 256), (1024, 512), (8192, 2048)])
def bench_numpy(compare: Callable[..., None], method: str, size: tuple[int, int]) -> None:
    small = padded(64, 16)
    np.testing.assert_allclose(ours(method, small), theirs(method, small), rtol=1e-4, atol=1e-5)
    batch = padded(*size)
    compare(
        f"{method} {size[0]}x{size[1]}",
        "NumPy, vectorised",
        lambda: ours(method, batch),
        lambda: theirs(method, batch),
        moved=batch.mask.nbytes + 2 * batch.rewards.nbytes,
    )
