"""What NaN means in columns that are no rewards."""

from dataclasses import replace

import numpy as np
import pytest

import apportion as ap

MASK = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
VALUES = np.arange(8.0).reshape(2, 4)
REWARDS = np.ones((2, 4))


def gae(values: np.ndarray, mask: np.ndarray = MASK, **given: str) -> ap.Credit:
    return ap.credit(
        "gae", ap.Rollouts.from_padded(mask, token_rewards=REWARDS, values=values, **given)
    )


def spoiled(*places: tuple[int, int]) -> np.ndarray:
    values = VALUES.copy()
    for place in places:
        values[place] = np.nan
    return values


def test_nan_outside_the_mask_is_nothing() -> None:
    for policy in ("raise", "mask", "zero"):
        credit = gae(spoiled((0, 3)), nan_values=policy)
        assert credit.counts["absent"] == 0
        np.testing.assert_array_equal(credit.to_padded(), gae(VALUES).to_padded())


def test_zero() -> None:
    values = VALUES.copy()
    values[1, 2] = 0
    credit = gae(spoiled((1, 2)), nan_values="zero")
    assert credit.counts["absent"] == 1
    np.testing.assert_array_equal(credit.to_padded(), gae(values).to_padded())


def test_mask() -> None:
    mask = MASK.copy()
    mask[1, 1] = 0
    credit = gae(spoiled((1, 1)), nan_values="mask")
    assert credit.counts["absent"] == 1 and credit.to_padded()[1, 1] == 0
    np.testing.assert_array_equal(credit.to_padded(), gae(VALUES, mask).to_padded())


def test_mask_leaves_turns_and_the_callers_arrays() -> None:
    values, before = spoiled((1, 1), (1, 2)), MASK.copy()
    rollouts = ap.Rollouts.from_padded(
        MASK, values=values, turn_rewards=[[1.0], [2.0]], nan_values="mask"
    )
    assert rollouts.num_turns == 2 and rollouts.absent_values == 2
    assert rollouts.turns[1].tolist() == [[0, 3], [4, 8]]
    np.testing.assert_array_equal(MASK, before)
    assert np.isnan(values).sum() == 2


def test_columns_added_later() -> None:
    bare = ap.Rollouts.from_padded(MASK, token_rewards=REWARDS, nan_values="mask")
    credit = ap.credit("gae", bare.with_columns(values=spoiled((0, 0))))
    assert credit.counts["absent"] == 1
    np.testing.assert_array_equal(
        credit.to_padded(), gae(spoiled((0, 0)), nan_values="mask").to_padded()
    )
    assert replace(bare).absent_values == 0


def test_ragged_and_step_rows() -> None:
    flat = np.array([0.5, np.nan, 1.0])
    ragged = ap.Rollouts.from_ragged(
        [0, 2, 3], token_rewards=np.ones(3), values=flat, nan_values="mask"
    )
    assert ap.credit("gae", ragged).advantages[1] == 0
    steps = ap.Rollouts.from_padded(
        np.ones((2, 2)),
        trajectory_ids=["a", "a"],
        token_rewards=np.ones((2, 2)),
        values=[[0.0, np.nan], [1.0, 1.0]],
        nan_values="mask",
    )
    assert steps.num_turns == 2 and ap.credit("gae", steps).to_padded()[0, 1] == 0


def test_raise_is_the_default() -> None:
    with pytest.raises(ap.InputError, match=r"values\[0, 1\]: got NaN"):
        _ = gae(spoiled((0, 1))).advantages
