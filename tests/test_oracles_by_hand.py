"""Oracles that no reference case covers, against values worked out on paper."""

import math

import numpy as np
import pytest

from oracles import matching, outcome, pure, token, trainers, turns
from oracles.common import masked_whiten

ONES = np.ones((4, 2))
GROUP = ["q"] * 4


def _last_token(scores: list[float]) -> list[list[float]]:
    return [[0.0, score] for score in scores]


def test_maxrl_of_binary_rewards_is_n_over_k_minus_one() -> None:
    advantages = outcome.maxrl(_last_token([1, 0, 0, 0]), ONES, GROUP, eps=0.0)
    np.testing.assert_allclose(advantages[:, 0], [3, -1, -1, -1])
    none = outcome.maxrl(_last_token([0, 0, 0, -1]), ONES, GROUP, non_positive_mean="zero")
    assert not none.any()


def test_gdpo_of_one_column_is_whitened_grpo() -> None:
    scores = [1.0, 0.0, 0.5, 0.25]
    grpo = outcome.grpo(_last_token(scores), ONES, GROUP)
    gdpo = outcome.gdpo(np.reshape(scores, (4, 1)), ONES, GROUP)
    np.testing.assert_allclose(gdpo, masked_whiten(grpo, ONES), rtol=1e-12)


def test_gdpo_keeps_a_small_reward_beside_a_large_one() -> None:
    rewards = [[100.0, 0.0], [100.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    advantages = outcome.gdpo(rewards, ONES, GROUP)[:, 0]
    np.testing.assert_allclose(advantages, advantages[1] * np.array([0, 1, -1, 0]), atol=1e-5)


def test_absent_scores_enter_no_statistic() -> None:
    with_absent = outcome.grpo(_last_token([1.0, 0.0, math.nan, 0.5]), ONES, GROUP)
    without = outcome.grpo(_last_token([1.0, 0.0, 0.5]), ONES[:3], GROUP[:3])
    np.testing.assert_array_equal(with_absent[[0, 1, 3]], without)
    assert not with_absent[2].any()


def test_equal_scores_give_exact_zero() -> None:
    for value in (0.7, 1.1):
        assert not outcome.grpo(_last_token([value] * 4), ONES, GROUP).any()


def test_reinforce_pp_carries_credit_across_an_inner_mask() -> None:
    rewards, mask = [[0.0, 5.0, 1.0]], [[1, 0, 1]]
    _, carried = token.reinforce_pp(rewards, mask, gamma=0.5, reset_at_mask=False)
    np.testing.assert_array_equal(carried, [[0.5, 0.0, 1.0]])
    _, reset = token.reinforce_pp(rewards, mask, gamma=0.5)
    np.testing.assert_array_equal(reset, [[0.0, 5.5, 1.0]])


def test_turn_group_mode_counts_the_outcome_once_at_the_answer() -> None:
    # Two rows, one gain each: z-scores of two values are +-1, so the gain turn has 1 + 1.5.
    rewards, mask = [[0.2, 0.0, 1.0], [0.1, 0.0, 0.0]], np.ones((2, 3))
    advantages, clip = turns.a2tgpo(rewards, mask, ["q", "q"], mode="turn-group")
    np.testing.assert_allclose(advantages, [[2.5, 1, 1], [-2.5, -1, -1]], rtol=1e-5)
    assert (clip == 1).all()


def test_min_form_returns_look_at_step_ends_only() -> None:
    returns = pure.min_form_returns([[0.0, 0.9, 0.0, 0.3, 0.0]], [[0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(returns, [[0.3, 0.3, 0.3, 0.3, 0.0]])


def test_sinkhorn_rewards_stay_under_their_marginal() -> None:
    assert matching.sinkhorn_rewards(np.zeros((2, 0))) == [0.0, 0.0]
    rewards = matching.sinkhorn_rewards([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(rewards, [0.5 / (1 + math.exp(-10))] * 2)


def test_optimal_assignment_beats_greedy_where_greed_is_short_sighted() -> None:
    similarity = [[0.9, 0.8], [0.8, 0.0]]
    assert matching.greedy_assignment(similarity) == [0, None]
    assert matching.optimal_assignments(similarity) == [[1, 0]]
    assert matching.optimal_total(similarity) == pytest.approx(1.6)


def test_nemo_rl_leaves_the_row_out_of_mean_and_std() -> None:
    advantages = trainers.nemo_rl([1.0, 0.0, 2.0], ["q"] * 3, eps=0.0)
    np.testing.assert_allclose(advantages[0], 0.0)
    np.testing.assert_allclose(advantages[2], 1.5 / math.sqrt(0.5))
    np.testing.assert_array_equal(trainers.nemo_rl([1.0, 0.0], ["q"] * 2), [1.0, -1.0])


def test_areal_roll_and_prime_rl_treat_lone_and_equal_rows() -> None:
    np.testing.assert_array_equal(trainers.areal([5.0], ["q"]), [0.0])
    lone = trainers.areal([5.0], ["q"], leave_one_out=True)
    np.testing.assert_allclose(lone, [5.0 / (1 + 1e-5)])
    np.testing.assert_array_equal(trainers.roll([2.0, 2.0 + 1e-7, 5.0], ["q", "q", "p"]), [0, 0, 0])
    np.testing.assert_array_equal(
        trainers.prime_rl([1.0, 0.0, 5.0], ["q", "q", "p"]), [0.5, -0.5, 0]
    )
