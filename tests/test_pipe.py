"""The whole way from padded arrays to per-token credit, on the smallest batch."""

import numpy as np

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
