"""Rollouts and credit as values: copied, sent to another process, compared."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import apportion as ap

COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda x: pickle.loads(pickle.dumps(x)),
]


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("method", ["grpo", "gigpo"])
def test_copies_after_use(copied: Callable[[Any], Any], method: str) -> None:
    rollouts = ap.example_rollouts()
    credit = ap.credit(method, rollouts)
    expected = credit.advantages
    again = copied(rollouts)
    np.testing.assert_array_equal(again.groups, rollouts.groups)
    np.testing.assert_array_equal(ap.credit(method, again).advantages, expected)
    sent = copied(credit)
    np.testing.assert_array_equal(sent.advantages, expected)
    np.testing.assert_array_equal(sent.turn_advantages, credit.turn_advantages)
    assert sent.counts == credit.counts


def test_equal_is_the_same() -> None:
    first, second = ap.example_rollouts(), ap.example_rollouts()
    assert first == first
    assert first != second
    assert len({first, second, first}) == 2
