"""Every option of every method, fed with wrong types and values out of its range.

Which values are wrong follows from what the option says it expects, so that a new
method's options are tested without an edit here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.methods import Option
from random_batches import random_batch

BATCH = random_batch(0)
NAN, INF = float("nan"), float("inf")
NO_NUMBER: list[Any] = ["1", True, [0.5], {}, object(), b"1", 1j, NAN, INF, -INF, 2**70]

WRONG: dict[str, list[Any]] = {
    "a number from 0 to 1": [*NO_NUMBER, -0.001, 1.001, -1, 2, np.float32(1.5)],
    "a number of at least 0": [*NO_NUMBER, -1e-300, -1],
    "a number above 0": [*NO_NUMBER, 0, 0.0, -1],
    "a finite number": NO_NUMBER,
    "True or False": [0, 1, "True", 1.0, [], [True], NAN],
    "an integer of at least 0": [-1, 1.0, 0.5, "1", True, [1], NAN, 2**63, -(2**70)],
    "a list of finite numbers": [1.0, "1", ["1"], [NAN], [INF], [None], {}, [[1.0]]],
    "a list of integers": [1, 1.5, [1.5], "1", ["1"], [2**70], [NAN], {}],
}


def wrong_values(option: Option) -> list[Any]:
    expected = option.expected.removesuffix(", or None")
    given: list[Any] = ["no such choice", 1, True, 0.5, ["x"], "\ud800", ""]
    if not expected.startswith(("one of", "a text of")):
        given = WRONG[expected]
    return given if option.expected.endswith("or None") else [*given, None]


def cases() -> Iterator[Any]:
    for card in ap.methods().values():
        for option in card.options:
            yield pytest.param(card.name, option, id=f"{card.name}-{option.name}")


@pytest.mark.parametrize(("method", "option"), list(cases()))
def test_wrong_values_are_refused_by_name(method: str, option: Option) -> None:
    rollouts = BATCH.rollouts(ap.methods()[method])
    for value in wrong_values(option):
        with pytest.raises(ap.OptionError, match=rf"option {option.name}: got ") as caught:
            ap.credit(method, rollouts, **{option.name: value})
        assert "expected" in str(caught.value), str(caught.value)


@pytest.mark.parametrize(("method", "option"), list(cases()))
def test_the_default_is_accepted(method: str, option: Option) -> None:
    rollouts = BATCH.rollouts(ap.methods()[method])
    given = ap.credit(method, rollouts, **{option.name: option.default})
    assert np.array_equal(given.advantages, ap.credit(method, rollouts).advantages)


@pytest.mark.parametrize("method", list(ap.methods()))
def test_unknown_options_and_trainers_are_refused(method: str) -> None:
    rollouts, card = BATCH.rollouts(), ap.methods()[method]
    with pytest.raises(ap.OptionError, match=r"unknown option .no_such"):
        ap.credit(method, rollouts, no_such=1)
    with pytest.raises(ap.OptionError, match="like: got") as caught:
        ap.credit(method, rollouts, like="nobody")
    assert all(trainer in str(caught.value) for trainer in card.presets)


@pytest.mark.parametrize("method", list(ap.methods()))
def test_missing_columns_are_named(method: str) -> None:
    needed = [c for c in ap.methods()[method].columns if c.required]
    bare = ap.Rollouts.from_padded(BATCH.mask)
    if not needed:
        return
    with pytest.raises(ap.MissingColumnError) as caught:
        ap.credit(method, bare)
    assert f'"{needed[0].name}"' in str(caught.value)
    assert needed[0].level in str(caught.value) and "got only" in str(caught.value)
