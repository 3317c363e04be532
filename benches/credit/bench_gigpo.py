"""GiGPO beside its authors' way of computing it, with equal and with like anchors."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import StepRows, step_rows

import apportion as ap

torch = pytest.importorskip("torch")
from peers import gigpo as reference  # noqa: E402

THRESHOLD = 0.95


def ours(batch: StepRows, **options: Any) -> Any:
    rollouts = ap.Rollouts.from_padded(
        batch.mask,
        group_ids=batch.uid,
        trajectory_ids=batch.traj,
        token_rewards=batch.rewards,
        turn_rewards=batch.step_rewards,
        anchors=batch.anchors,
    )
    return ap.credit("gigpo", rollouts, **options).to_padded()


def theirs(batch: StepRows, threshold: float | None = None) -> Any:
    return reference.advantage(
        torch.from_numpy(batch.rewards),
        torch.from_numpy(batch.mask),
        batch.step_rewards,
        batch.anchors,
        batch.uid,
        batch.traj,
        threshold=threshold,
    )


def moved(batch: StepRows) -> int:
    texts = sum(len(text) for text in batch.anchors)
    return batch.mask.nbytes + 2 * batch.rewards.nbytes + texts


def check_equal(batch: StepRows, **options: Any) -> None:
    mine, peers = ours(batch, **options), theirs(batch, options.get("similarity_threshold"))
    np.testing.assert_allclose(mine, np.asarray(peers), rtol=1e-4, atol=1e-5)


def bench_exact(compare: Callable[..., None], quick: bool) -> None:
    check_equal(step_rows(3, turns=6, width=8))
    prompts = 64 if quick else 512
    batch = step_rows(prompts)
    compare(
        f"gigpo {prompts}x8x30, 2 KB states",
        "GiGPO reference",
        lambda: ours(batch),
        lambda: theirs(batch),
        goal=None if quick else 200,
        moved=moved(batch),
    )


@functools.cache
def game_texts() -> list[str]:
    """What the games of the bundled rollouts showed to the model."""
    path = Path(ap.__file__).parent / "data" / "rollouts.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    texts = (turn.get("observation") for record in records for turn in record["turns"])
    return list(dict.fromkeys(text for text in texts if text))


def game_states(rng: np.random.Generator) -> list[str]:
    """Near-equal texts with many repetitions, which take difflib long."""
    return [game_texts()[i] for i in rng.choice(len(game_texts()), 100)]


@pytest.mark.parametrize("similarity", ["difflib", "indel"])
@pytest.mark.parametrize("states", ["random", "games"])
def bench_similar(compare: Callable[..., None], similarity: str, states: str) -> None:
    # Of the games' texts a few turns, because a pair takes difflib a hundred times as long.
    kinds = {} if states == "random" else {"states": game_states, "turns": 4}
    what = "2 KB of random text" if states == "random" else "game texts"
    options = {"similarity": similarity, "similarity_threshold": THRESHOLD}
    if similarity == "difflib":  # "indel" measures something else: its groups may differ
        check_equal(step_rows(2, width=8, **{"turns": 4, **kinds}), **options)
    batch = step_rows(1, **kinds)
    compare(
        f"gigpo similar ({similarity}) 1x8x{len(batch.uid) // 8}, {what}",
        "GiGPO reference, difflib",
        lambda: ours(batch, **options),
        lambda: theirs(batch, THRESHOLD),
        goal=300,
    )


@pytest.mark.parametrize("similarity", ["difflib", "indel"])
def bench_similar_large(compare: Callable[..., None], quick: bool, similarity: str) -> None:
    """The peer on one prompt, times the prompts: it works prompt by prompt."""
    prompts = 64 if quick else 512
    options = {"similarity": similarity, "similarity_threshold": THRESHOLD}
    one, batch = step_rows(1), step_rows(prompts)
    compare(
        f"gigpo similar ({similarity}) {prompts}x8x30, 2 KB of random text",
        "GiGPO reference, difflib",
        lambda: ours(batch, **options),
        lambda: theirs(one, THRESHOLD),
        goal=300,
        peer_scale=prompts,
    )
