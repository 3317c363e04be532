"""The whole way from padded arrays to per-token credit, on the smallest batch."""

import numpy as np
import pytest

import apportion as ap


def test_padded_in_padded_out() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]])
    rollouts = ap.Rollouts.from_padded(
        mask, group_ids=["a", "a", "b", "b"], outcome_rewards=np.float32([1, 0, 1, 1])
    )
    credit = ap.credit("grpo", rollouts)
    advantages = credit.to_padded()
    assert advantages.dtype == np.float32 and advantages.shape == mask.shape
    half = np.float32(0.5 / (np.sqrt(0.5) + 1e-6))
    assert np.allclose(advantages[:2], [[half, half, 0], [-half, 0, 0]])
    assert (advantages[2:] == 0).all()
    assert credit.counts == {"groups": 2, "singletons": 0, "zero_spread": 1, "absent": 0}


def test_records() -> None:
    records = [
        {"group": 1, "outcome": r, "turns": [{"text": "a", "tokens": [1, 2]}, {"text": "b"}]}
        for r in (1.0, 0.0)
    ]
    rollouts = ap.Rollouts.from_lists(records)
    credit = ap.credit("grpo", rollouts)
    assert credit.turn_advantages.shape == (4,) and credit.advantages.shape == (4,)


def test_token_credit_back_to_turns() -> None:
    """The mean is over trained tokens, so that padding of a step row weighs nothing."""
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    rewards = np.array([[1.0, 0, 0, 0], [2.0, 0, 0, 0]])
    rollouts = ap.Rollouts.from_padded(
        mask, trajectory_ids=["a", "a"], token_rewards=rewards, reward_baselines=[0.0, 0.0]
    )
    credit = ap.credit("remax", rollouts)
    tokens = credit.to_padded()
    assert np.allclose(credit.turn_advantages, [tokens[0, :2].mean(), tokens[1, 0]])


def test_a_turn_index_twice_is_refused() -> None:
    rollouts = ap.Rollouts.from_padded(
        np.ones((3, 1)), trajectory_ids=["a", "b", "a"], turn_index=[5, 5, 5]
    )
    with pytest.raises(ap.InputError, match=r"turn_index\[2\]: got 5, expected another number"):
        _ = rollouts.turns
