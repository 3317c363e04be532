"""Batches for the benchmarks, the same in every run. NumPy alone."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
GROUP_SIZE = 8
ALL_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def thread_counts() -> list[int]:
    return sorted({1, ALL_THREADS or 1})


@dataclass
class Padded:
    """A batch as verl holds it: lengths uniform in [T/8, T], padded on the right."""

    mask: Array  # (N, T) int64
    rewards: Array  # (N, T) float32, one number at the last token
    uid: Array  # (N,) strings as objects, eight rows a group

    @property
    def tokens(self) -> int:
        return self.mask.size


def ids(count: int, rng: np.random.Generator) -> list[str]:
    """uuid strings, as trainers make them."""
    return [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(count)]


def padded(rows: int, width: int, seed: int = 0) -> Padded:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(width // 8, width + 1, rows)
    mask = np.zeros((rows, width), dtype=np.int64)
    rewards = np.zeros((rows, width), dtype=np.float32)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    rewards[np.arange(rows), lengths - 1] = rng.standard_normal(rows)
    uid = np.repeat(np.array(ids(rows // GROUP_SIZE, rng), dtype=object), GROUP_SIZE)
    return Padded(mask, rewards, uid)


@dataclass
class StepRows:
    """One row a turn, as verl-agent holds it."""

    mask: Array  # (N, T) int64
    rewards: Array  # (N, T) float32: the episode's score at the last token of each row
    step_rewards: Array  # (N,) float32
    anchors: Array  # (N,) strings as objects
    uid: Array  # (N,) prompt ids
    traj: Array  # (N,) trajectory ids


LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz ", np.uint8)


def random_states(rng: np.random.Generator, count: int = 100, length: int = 2048) -> list[str]:
    """Texts of random letters: the quickest for difflib, whose heuristic leaves out every
    letter that is as frequent as these."""
    return [rng.choice(LETTERS, length).tobytes().decode() for _ in range(count)]


def step_rows(
    prompts: int,
    turns: int = 30,
    width: int = 512,
    states: Callable[[np.random.Generator], list[str]] = random_states,
    seed: int = 0,
) -> StepRows:
    """`GROUP_SIZE` rollouts of `turns` turns a prompt, each turn in one of the prompt's states."""
    rng = np.random.default_rng(seed)
    per_prompt = GROUP_SIZE * turns
    rows = prompts * per_prompt
    batch = padded(rows, width, seed)
    last = batch.mask.sum(axis=1) - 1
    batch.rewards[:] = 0
    scores = np.repeat(rng.integers(0, 2, prompts * GROUP_SIZE), turns)
    batch.rewards[np.arange(rows), last] = scores
    anchors = np.empty(rows, dtype=object)
    for prompt in range(prompts):
        own = states(rng)
        for i, state in enumerate(rng.integers(0, len(own), per_prompt)):
            # A string of its own: no two rows of a real batch share the object.
            anchors[prompt * per_prompt + i] = "".join(own[state])
    return StepRows(
        batch.mask,
        batch.rewards,
        rng.standard_normal(rows).astype(np.float32),
        anchors,
        np.repeat(np.array(ids(prompts, rng), dtype=object), per_prompt),
        np.repeat(np.array(ids(prompts * GROUP_SIZE, rng), dtype=object), turns),
    )


def multi_turn(rows: int, width: int, turns: int = 8, seed: int = 0) -> Padded:
    """Whole trajectories, a row each: `turns` answers with tool output between them, a
    reward at the last token of each, 16 rows a prompt."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((rows, width), dtype=np.int64)
    rewards = np.zeros((rows, width), dtype=np.float32)
    for row in range(rows):
        cuts = np.sort(rng.choice(np.arange(1, width // 2), 2 * turns - 1, replace=False)) * 2
        edges = [0, *cuts, width]
        for turn in range(turns):
            start, end = edges[2 * turn], edges[2 * turn + 1]
            mask[row, start:end] = 1
            rewards[row, end - 1] = rng.standard_normal()
    uid = np.repeat(np.array(ids(-(-rows // 16), rng), dtype=object), 16)[:rows]
    return Padded(mask, rewards, uid)


@dataclass
class Signed:
    """Step rows with intent signatures, for A3."""

    prompt: list[str]
    traj: list[str]
    turn: list[int]
    score: list[float]
    signature: list[list[str]]
    mask: Array


def signed(
    prompts: int,
    rollouts: int = 4,
    turns: int = 15,
    width: int = 512,
    tokens: tuple[int, int] = (2, 8),
) -> Signed:
    """Step rows with signatures of between so many tokens."""
    rng = np.random.default_rng(0)
    verbs = ["V:ls", "V:cat", "V:sed", "V:grep", "V:python", "V:pytest", "K:for_statement", "W:src"]
    out = Signed([], [], [], [], [], padded(prompts * rollouts * turns, width).mask)
    for prompt in ids(prompts, rng):
        for traj in ids(rollouts, rng):
            score = float(rng.integers(0, 5)) / 4
            for turn in range(turns):
                out.prompt.append(prompt)
                out.traj.append(traj)
                out.turn.append(turn)
                out.score.append(score)
                out.signature.append(list(rng.choice(verbs, rng.integers(*tokens, endpoint=True))))
    return out
