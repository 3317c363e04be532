"""Methods that credit tokens or turns against their oracles, on random batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import apportion as ap
from oracles import steps, token, turns
from property_settings import Table, close, examples, few_ids, scores, tables


def both(credit: ap.Credit) -> tuple[np.ndarray, np.ndarray]:
    return credit.to_padded(), credit.to_padded("returns")


def same(got: Any, want: Any) -> None:
    """Whitened values: the oracle sums in another order."""
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def of_tokens(table: Table, **columns: Any) -> ap.Rollouts:
    return ap.Rollouts.from_padded(
        table.mask, group_ids=table.ids, token_rewards=table.tokens, **columns
    )


@pytest.mark.parametrize("whiten", [False, True])
@given(tables(), st.sampled_from([0.0, 0.9, 1.0]), st.sampled_from([0.0, 0.95, 1.0]))
@examples
def test_gae(whiten: bool, table: Table, gamma: float, lam: float) -> None:
    rollouts = of_tokens(table, values=table.values)
    given_ = {"gamma": gamma, "lam": lam, "whiten": whiten}
    got = ap.credit("gae", rollouts, **given_)
    want, returns = token.gae(table.tokens, table.values, table.mask, **given_, remask=True)
    same(both(got), (want, returns * table.mask))


@given(tables(), st.sampled_from([0.5, 1.0]), st.sampled_from([0.5, 1.0]))
@examples
def test_gae_as_openrlhf(table: Table, gamma: float, lam: float) -> None:
    rollouts = of_tokens(table, values=table.values)
    got = ap.credit("gae", rollouts, like="openrlhf", whiten=False, gamma=gamma, lam=lam)
    want = token.gae_openrlhf(table.tokens, table.values, table.mask, gamma=gamma, lam=lam)
    trained = table.mask == 1
    same([part[trained] for part in both(got)], [part[trained] for part in want])


# Our option by the oracle's.
@pytest.mark.parametrize(("like", "resets"), [("verl", False), ("skyrl", True)])
@given(tables(), st.sampled_from([0.9, 1.0]))
@examples
def test_reinforce_pp(like: str, resets: bool, table: Table, gamma: float) -> None:
    got = both(ap.credit("reinforce_pp", of_tokens(table), like=like, gamma=gamma))
    want = token.reinforce_pp(table.tokens, table.mask, gamma=gamma, reset_at_mask=resets)
    trained = table.mask == 1
    same([part[trained] for part in got], [part[trained] for part in want])


@given(tables(min_rows=1))
@examples
def test_remax(table: Table) -> None:
    rollouts = of_tokens(table, reward_baselines=table.scores)
    got = both(ap.credit("remax", rollouts, remask=False))
    same(got, token.remax(table.tokens, table.mask, table.scores))


@pytest.mark.parametrize(("method", "multi_turn"), [("otb", False), ("tir_otb", True)])
@given(tables(min_rows=1), st.booleans())
@examples
def test_optimal_token_baselines(
    method: str, multi_turn: bool, table: Table, zero_tail: bool
) -> None:
    log_probs, squares = -np.abs(table.values), np.exp(-np.abs(table.values))
    rollouts = of_tokens(table, old_log_probs=log_probs, sum_pi_squared=squares)
    got = ap.credit(method, rollouts, zero_tail=zero_tail).to_padded()
    want, _ = token.optimal_token_baseline(
        table.tokens,
        table.mask,
        table.ids,
        log_probs,
        squares,
        multi_turn=multi_turn,
        handle_zero_tail=zero_tail,
    )
    close(got, want)


@st.composite
def episodes(draw: st.DrawFn) -> list[tuple[int, int, float, float, str]]:
    """Step rows `(prompt, trajectory, outcome, reward, anchor)`, trajectories interleaved."""
    outcome = draw(st.dictionaries(st.tuples(few_ids, st.integers(0, 2)), scores, max_size=6))
    if not outcome:
        return []
    rows = draw(
        st.lists(st.tuples(st.sampled_from(sorted(outcome)), scores, st.sampled_from("xyz")))
    )
    return [(p, t, outcome[p, t], reward, anchor) for (p, t), reward, anchor in rows]


@pytest.mark.parametrize("mode", ["mean_norm", "mean_std_norm"])
@pytest.mark.parametrize("over", ["rows", "trajs"])
@given(episodes(), st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 1.0, 2.0]))
@examples
def test_gigpo(mode: str, over: str, rows: Any, gamma: float, weight: float) -> None:
    prompts, trajectories, outcomes, rewards, anchors = (
        (list(c) for c in zip(*rows, strict=True)) if rows else ([], [], [], [], [])
    )
    traj = [f"{p}/{t}" for p, t in zip(prompts, trajectories, strict=True)]
    mask = np.ones((len(rows), 2))
    rollouts = ap.Rollouts.from_padded(
        mask,
        group_ids=prompts,
        trajectory_ids=traj,
        outcome_rewards=outcomes,
        turn_rewards=rewards,
        anchors=anchors,
    )
    options = {
        "scale": "none" if mode == "mean_norm" else "std",
        "stats_over": "rows" if over == "rows" else "trajectories",
    }
    got = ap.credit("gigpo", rollouts, gamma=gamma, step_weight=weight, **options).to_padded()
    sums = np.stack([outcomes, np.zeros(len(rows))], axis=1).reshape(len(rows), 2)
    want = steps.gigpo(
        sums, mask, rewards, anchors, prompts, traj,
        gamma=gamma, mode=mode, step_weight=weight, stats_over=over,
    )  # fmt: skip
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


@given(tables(), st.sampled_from([0.0, 0.9]))
@examples
def test_matchtir(table: Table, lam: float) -> None:
    # Rewards where turns end, which is where both read them.
    ends = table.mask * (np.diff(table.mask, axis=1, append=0) < 0)
    rewards = table.tokens * ends
    rollouts = ap.Rollouts.from_padded(table.mask, group_ids=table.ids, token_rewards=rewards)
    got = ap.credit("matchtir", rollouts, lam=lam).to_padded()
    np.testing.assert_allclose(
        got, steps.matchtir(rewards, table.mask, table.ids, lam=lam), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("mode", ["joint", "separate"])
@given(tables(), st.sampled_from([0.9, 1.0]), st.sampled_from([0.5, 1.0]))
@examples
def test_igpo(mode: str, table: Table, gamma: float, weight: float) -> None:
    rewards = table.tokens * table.mask
    rollouts = ap.Rollouts.from_padded(table.mask, group_ids=table.ids, token_rewards=rewards)
    given_ = {"mode": mode, "gamma": gamma, "gain_weight": weight}
    got = ap.credit("igpo", rollouts, boundary="nonzero", **given_).to_padded()
    same([got], [turns.igpo(rewards, table.mask, table.ids, **given_)])


@pytest.mark.parametrize("mode", ["turn-group-v1d", "joint", "separate", "turn-group"])
@given(tables(), st.sampled_from([0.9, 1.0]))
@examples
def test_a2tgpo(mode: str, table: Table, gamma: float) -> None:
    rewards = table.tokens * table.mask
    rollouts = ap.Rollouts.from_padded(table.mask, group_ids=table.ids, token_rewards=rewards)
    credit = ap.credit("a2tgpo", rollouts, boundary="nonzero", mode=mode, gamma=gamma)
    want = turns.a2tgpo(rewards, table.mask, table.ids, gamma=gamma, mode=mode)
    got = [credit.to_padded(), *([credit.to_padded("clip_scale")] if "v1d" in mode else [])]
    same(got, want[: len(got)])
    assert "v1d" in mode or (want[1] == 1.0).all()
