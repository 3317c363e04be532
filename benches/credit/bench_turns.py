"""A2TGPO, MatchTIR and A3 beside loops over tokens and pairs, as released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from batches import Padded, Signed, multi_turn, signed

import apportion as ap

torch = pytest.importorskip("torch")
from peers import a3, turns  # noqa: E402

OPTIONS: dict[str, dict[str, Any]] = {"a2tgpo": {"boundary": "nonzero"}, "matchtir": {}}


def ours(method: str, batch: Padded) -> list[Any]:
    rollouts = ap.Rollouts.from_padded(batch.mask, group_ids=batch.uid, token_rewards=batch.rewards)
    credit = ap.credit(method, rollouts, **OPTIONS[method])
    return [credit.to_padded(name) for name in credit.values]


def theirs(method: str, batch: Padded) -> list[Any]:
    rewards, mask = torch.from_numpy(batch.rewards), torch.from_numpy(batch.mask)
    found = getattr(turns, method)(rewards, mask, batch.uid)
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("method", ["a2tgpo", "matchtir"])
def bench_tokens(compare: Callable[..., None], method: str) -> None:
    small = multi_turn(32, 64, turns=4)
    for mine, peers in zip(ours(method, small), theirs(method, small), strict=True):
        np.testing.assert_allclose(mine, peers.numpy(), rtol=1e-5, atol=1e-6)
    batch = multi_turn(256, 4096)
    outputs = 2 if method == "a2tgpo" else 1
    compare(
        f"{method} 256x4096, 8 turns",
        "token loop",
        lambda: ours(method, batch),
        lambda: theirs(method, batch),
        goal=1000,
        moved=batch.mask.nbytes + batch.rewards.nbytes * (1 + outputs),
    )


def ours_a3(batch: Signed) -> Any:
    rollouts = ap.Rollouts.from_padded(
        batch.mask,
        group_ids=batch.prompt,
        trajectory_ids=batch.traj,
        outcome_rewards=batch.score,
        signatures=batch.signature,
    )
    return ap.credit("a3", rollouts).to_padded()


def theirs_a3(batch: Signed) -> Any:
    credit = a3.credit(batch.prompt, batch.traj, batch.turn, batch.score, batch.signature)
    return torch.tensor(credit).unsqueeze(-1) * torch.from_numpy(batch.mask)


@pytest.mark.parametrize("tokens", [(1, 4), (2, 8)])
def bench_a3(compare: Callable[..., None], tokens: tuple[int, int]) -> None:
    small = signed(3, turns=4, width=8)
    np.testing.assert_allclose(ours_a3(small), theirs_a3(small).numpy(), rtol=1e-5, atol=1e-6)
    batch = signed(16, tokens=tokens)
    compare(
        f"a3 16x4x15 (960 rows), {tokens[0]} to {tokens[1]} tokens a turn",
        "loops over pairs of rows",
        lambda: ours_a3(batch),
        lambda: theirs_a3(batch),
        goal=300,
    )
