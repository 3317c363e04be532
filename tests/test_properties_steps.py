"""Methods on process rewards and signatures against their oracles, on random batches."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import apportion as ap
from oracles import a3, pure, steps
from property_settings import close, examples, few_ids, scores

# A trajectory: its group, and for each step its tokens and its reward.
step = st.tuples(st.integers(1, 3), scores)
trajectory = st.tuples(st.integers(0, 1), st.lists(step, min_size=1, max_size=4))
batches = st.lists(trajectory, min_size=1, max_size=7)


def padded(batch: list[Any]) -> dict[str, Any]:
    """Masks, ends of steps and rewards on them, `(N, T)`, and spans of steps."""
    spans = [
        list(itertools.pairwise(itertools.accumulate([n for n, _ in own], initial=0)))
        for _, own in batch
    ]
    width = max(row[-1][1] for row in spans) + 1  # and one of padding
    mask, ends, rewards = np.zeros((3, len(batch), width))
    for i, (row, (_, own)) in enumerate(zip(spans, batch, strict=True)):
        mask[i, : row[-1][1]] = 1
        for (_, end), (_, reward) in zip(row, own, strict=True):
            ends[i, end - 1], rewards[i, end - 1] = 1, reward
    ids = [group for group, _ in batch]
    return {"mask": mask, "ends": ends, "rewards": rewards, "spans": spans, "ids": ids}


def rollouts_of(batch: list[Any], **columns: Any) -> ap.Rollouts:
    given_ = padded(batch)
    rewards = [[reward for _, reward in own] for _, own in batch]
    return ap.Rollouts.from_padded(
        given_["mask"],
        group_ids=given_["ids"],
        turn_spans=given_["spans"],
        turn_rewards=rewards,
        **columns,
    )


@pytest.mark.parametrize("singleton", ["raw", "zero"])
@given(batches)
@examples
def test_grpo_process(singleton: str, batch: list[Any]) -> None:
    given_ = padded(batch)
    got = ap.credit("grpo_process", rollouts_of(batch), singleton=singleton)
    want = steps.grpo_process_supervision(
        [[reward for _, reward in own] for _, own in batch],
        [[n for n, _ in own] for _, own in batch],
        given_["ids"],
        singleton=singleton,
    )
    close(got.to_padded()[given_["mask"] == 1], np.concatenate(want))


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("form", ["sum", "min"])
@given(batches)
@examples
def test_pure_as_verl(form: str, whiten: bool, batch: list[Any]) -> None:
    if whiten:  # groups of one are in no statistic of ours, but in the oracle's
        batch = [(0, own) for _, own in [*batch, *batch[:1]]]
    given_ = padded(batch)
    options = {"transform": "none", "form": form, "whiten": whiten, "singleton": "zero"}
    got = ap.credit("pure", rollouts_of(batch), like="verl", **options)
    want, returns = pure.pure_verl(
        given_["rewards"],
        given_["mask"],
        given_["ids"],
        aggregate=form,
        normalise=whiten,
        singleton="zero",
    )
    close(got.to_padded("returns"), returns)
    np.testing.assert_allclose(got.to_padded(), want, rtol=1e-6, atol=1e-6)


@given(batches, st.sampled_from([0.1, 1.0]), st.booleans())
@examples
def test_pure_transform(batch: list[Any], temperature: float, uniform: bool) -> None:
    given_ = padded(batch)
    transform = "uniform" if uniform else "softmax"
    got = ap.credit("pure", rollouts_of(batch), transform=transform, temperature=temperature)
    want = pure.transform(
        given_["rewards"], given_["ends"], temperature=temperature, uniform=uniform
    )
    close(got.to_padded("step_rewards")[given_["ends"] == 1], want[given_["ends"] == 1])


@pytest.mark.parametrize("baseline", ["token", "step"])
@given(st.lists(trajectory, min_size=2, max_size=6), st.sampled_from([0.0, 0.5]), st.data())
@examples
def test_pure_as_openrlhf(baseline: str, batch: list[Any], coef: float, data: Any) -> None:
    batch = [(0, own) for _, own in batch]
    solved = np.array([data.draw(st.sampled_from([0.0, 1.0])) for _ in batch])
    given_ = padded(batch)
    got = ap.credit(
        "pure",
        rollouts_of(batch, outcome_rewards=solved),
        like="openrlhf",
        transform="none",
        baseline=baseline,
        outcome_coef=coef,
    )
    shaped, returns, advantages = pure.pure_openrlhf(
        given_["rewards"],
        given_["ends"],
        given_["mask"],
        [[n for n, _ in own] for _, own in batch],
        solved,
        given_["ids"],
        baseline=baseline,
        coef=coef,
    )
    trained = given_["mask"] == 1
    close(got.to_padded("shaped_rewards"), shaped)
    close(got.to_padded("returns")[trained], returns[trained])
    close(got.to_padded()[trained], advantages[trained])


@st.composite
def signed(draw: st.DrawFn) -> list[tuple[int, int, int, float, list[str]]]:
    """Step rows in the order of their turns: prompt, trajectory, turn, outcome, signature."""
    rows = []
    for traj in range(draw(st.integers(1, 6))):
        prompt, score = draw(few_ids) % 2, draw(st.sampled_from([0.0, 0.5, 1.0]))
        for turn in range(draw(st.integers(1, 4))):
            signature = draw(st.lists(st.sampled_from("abc"), max_size=3))
            rows.append((prompt, traj, turn, score, signature))
    return rows


@pytest.mark.parametrize("over", ["batch", "prompt"])
@given(signed())
@examples
def test_a3(over: str, rows: list[Any]) -> None:
    prompt, traj, turn, score, signature = map(list, zip(*rows, strict=True))
    rollouts = ap.Rollouts.from_padded(
        np.ones((len(rows), 1)),
        group_ids=prompt,
        trajectory_ids=traj,
        outcome_rewards=np.array(score),
        signatures=signature,
    )
    got = ap.credit("a3", rollouts, normalise_over=over)
    options = a3.A3Options(normalise_over=over)
    want = a3.a3(prompt, traj, turn, score, signature, options)
    close(got.to_padded()[:, 0], want.advantages)
    for part in ("backbone", "residual", "tree_return", "tree_support"):
        close(got.to_padded(part)[:, 0], getattr(want, part))
