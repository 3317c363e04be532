"""Input that is odd but legal, each with the result that it must give."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion import primitives

NAN = float("nan")
MASK = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
SCORES = np.array([1.0, 0.0, 1.0, 3.0])
IDS = ["a", "a", "b", "b"]


def grpo(mask: Any = MASK, scores: Any = SCORES, ids: Any = IDS, **given: Any) -> np.ndarray:
    rollouts = ap.Rollouts.from_padded(mask, group_ids=ids, outcome_rewards=scores, **given)
    return ap.credit("grpo", rollouts).to_padded()


EXPECTED = grpo()


def strided(values: np.ndarray) -> np.ndarray:
    wide = np.zeros((len(values) * 2, *values.shape[1:]), values.dtype)
    wide[::2] = values
    return wide[::2]


def read_only(values: np.ndarray) -> np.ndarray:
    own = values.copy()
    own.flags.writeable = False
    return own


def misaligned(values: np.ndarray) -> np.ndarray:
    raw = np.zeros(values.nbytes + 1, np.uint8)
    own = raw[1:].view(values.dtype).reshape(values.shape)
    own[:] = values
    return own


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "a list": lambda v: v.tolist(),
    "Fortran order": np.asfortranarray,
    "strided": strided,
    "negative stride": lambda v: v[::-1].copy()[::-1],
    "read-only": read_only,
    "misaligned": misaligned,
    "big-endian": lambda v: v.astype(v.dtype.newbyteorder(">")),
    "objects": lambda v: v.astype(object),
    "float16": lambda v: v.astype(np.float16),
    "float32": lambda v: v.astype(np.float32),
    "long double": lambda v: v.astype(np.longdouble),
    "int8": lambda v: v.astype(np.int8),
    "uint64": lambda v: v.astype(np.uint64),
    "a subclass": lambda v: v.view(np.matrix) if v.ndim == 2 else v,
}
NOT_MASKS = {"long double"}  # a mask is read in place, in a type that trainers hold it in


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_arrays(form: str) -> None:
    change = FORMS[form]
    np.testing.assert_allclose(grpo(scores=change(SCORES)), EXPECTED, rtol=1e-6)
    if form not in NOT_MASKS:
        np.testing.assert_array_equal(grpo(mask=change(MASK)), EXPECTED)
    np.testing.assert_array_equal(grpo(mask=MASK.astype(bool)), EXPECTED)
    ids = np.array([0, 0, 7, 7])
    if form not in ("float16", "float32", "long double"):
        np.testing.assert_array_equal(grpo(ids=change(ids)), EXPECTED)


TWICE: dict[str, list[Any]] = {  # three ids, of which the first and the last are equal
    "huge integers": [2**70, 2**70 + 1, 2**70],
    "uint64 at its end": list(np.array([2**64 - 1, 2**64 - 2, 2**64 - 1], np.uint64)),
    "int64 at its end": [-(2**63), 2**63 - 1, -(2**63)],
    "bytes": [b"\x00", b"\xff", b"\x00"],
    "an empty text": ["", "a", ""],
    "text beyond the plane": ["😀", "é", "😀"],
    "uuids": [uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=1)],
    "tuples": [(1, "a"), (1, "b"), (1, "a")],
    "nested tuples": [((1,), 2), (1, (2,)), ((1,), 2)],
    "arrays": [np.array([1, 2]), np.array([2, 1]), np.array([1, 2])],
    "booleans": [True, False, True],
    "an integer and its text": [1, "1", 1],
    "text and bytes": ["a", b"a", "a"],
    "integers of two kinds": [np.int64(3), 4, 3],
    "texts of two kinds": [np.str_("x"), "y", "x"],
    "half a surrogate pair, among others": [("\ud800",), 1, ("\ud800",)],
}


@pytest.mark.parametrize("what", TWICE)
def test_ids_of_any_kind(what: str) -> None:
    assert primitives.group(TWICE[what]).tolist() == [0, 1, 0]
    scores = np.array([1.0, 5.0, 0.0])
    got = grpo(np.ones((3, 1)), scores, TWICE[what])
    np.testing.assert_array_equal(got, grpo(np.ones((3, 1)), scores, ["p", "q", "p"]))


def test_arrays_of_large_ids() -> None:
    assert primitives.group(np.array([2**64 - 1, 0, 2**64 - 1], np.uint64)).tolist() == [0, 1, 0]
    assert primitives.group(np.array([[1, 2], [1, 3], [1, 2]])).tolist() == [0, 1, 0]
    assert primitives.group(np.array(["a", "b", "a"], object)).tolist() == [0, 1, 0]
    assert primitives.group(i % 2 for i in range(3)).tolist() == [0, 1, 0]


def test_a_batch_without_rows_or_tokens() -> None:
    assert grpo(np.zeros((0, 5)), [], []).shape == (0, 5)
    assert grpo(np.zeros((2, 0)), [1.0, 0.0], ["a", "a"]).shape == (2, 0)
    empty = ap.Rollouts.from_lists([])
    assert (len(empty), empty.num_turns, len(ap.credit("grpo", empty).advantages)) == (0, 0, 0)
    none = ap.Rollouts.from_ragged([0], group_ids=[], outcome_rewards=[])
    assert ap.credit("grpo", none).counts["groups"] == 0


def test_empty_trajectories() -> None:
    columns = {"group_ids": ["a"] * 3, "outcome_rewards": [1.0, 0.0, 2.0]}
    rollouts = ap.Rollouts.from_ragged([0, 0, 2, 2], **columns)
    credit = ap.credit("grpo", rollouts)
    assert rollouts.lengths.tolist() == [0, 2, 0] and rollouts.num_turns == 1
    np.testing.assert_allclose(credit.advantages, [-1.0, -1.0], rtol=1e-5)
    turnless = ap.Rollouts.from_lists([{"group": "g", "outcome": 1.0, "turns": []}])
    assert ap.credit("grpo", turnless).advantages.shape == (0,)


def test_rows_without_a_trained_token() -> None:
    mask = MASK.copy()
    mask[1] = 0
    got = grpo(mask)
    assert not got[1].any()
    np.testing.assert_array_equal(got[[0, 2, 3]], EXPECTED[[0, 2, 3]])
    assert not grpo(np.zeros_like(MASK)).any()


def test_an_absent_reward_leaves_the_others_as_they_are() -> None:
    ids, scores = ["a"] * 4, np.array([1.0, NAN, 0.0, 3.0])
    rollouts = ap.Rollouts.from_padded(MASK, group_ids=ids, outcome_rewards=scores)
    credit = ap.credit("grpo", rollouts)
    kept = [0, 2, 3]
    want = grpo(MASK[kept], scores[kept], ["a"] * 3)
    np.testing.assert_array_equal(credit.to_padded()[kept], want)
    assert not credit.to_padded()[1].any() and credit.counts["absent"] == 1
    none = [None if np.isnan(s) else s for s in scores]
    np.testing.assert_array_equal(grpo(scores=none, ids=ids), credit.to_padded())


def test_absent_as_zero_and_absent_in_every_column() -> None:
    scores = np.array([1.0, NAN, 1.0, 3.0])
    zero = ap.Rollouts.from_padded(MASK, group_ids=IDS, outcome_rewards=scores, nan_rewards="zero")
    credit = ap.credit("grpo", zero)
    np.testing.assert_array_equal(credit.to_padded(), EXPECTED)
    assert credit.counts["absent"] == 1
    matrix = np.array([[1.0, NAN], [0.0, NAN], [NAN, 1.0], [3.0, NAN]])
    by_function = ap.Rollouts.from_padded(MASK, group_ids=IDS, reward_matrix=matrix)
    np.testing.assert_array_equal(ap.credit("grpo", by_function).to_padded(), EXPECTED)


def test_what_stands_outside_the_mask_is_not_read() -> None:
    tokens = np.where(MASK == 1, 0.5, NAN)
    values = np.where(MASK == 1, 0.25, np.inf)
    clean = {"token_rewards": np.full(MASK.shape, 0.5), "values": np.full(MASK.shape, 0.25)}
    dirty = ap.Rollouts.from_padded(MASK, token_rewards=tokens, values=values)
    want = ap.credit("gae", ap.Rollouts.from_padded(MASK, **clean)).to_padded()
    np.testing.assert_array_equal(ap.credit("gae", dirty).to_padded(), want)


def test_shapes_that_mean_the_same() -> None:
    np.testing.assert_array_equal(grpo(scores=SCORES[:, None]), EXPECTED)
    np.testing.assert_array_equal(grpo(ids=None, group_size=np.int64(2)), EXPECTED)
    one = ap.Rollouts.from_padded([[1]], group_ids=["a"], outcome_rewards=1.0)
    assert ap.credit("grpo", one).advantages.shape == (1,)
    spans = [[(0, 2), (2, 2), (3, 4)], [], np.array([[1, 3]]), [(0, 4)]]
    assert ap.Rollouts.from_padded(MASK, turn_spans=spans).num_turns == 5


def test_numpy_scalars_as_options() -> None:
    rollouts = ap.Rollouts.from_padded(MASK, group_ids=IDS, outcome_rewards=SCORES)
    for eps in (np.float32(0.5), np.float64(0.5), np.array(0.5)):
        got = ap.credit("grpo", rollouts, eps=eps).advantages
        np.testing.assert_array_equal(got, ap.credit("grpo", rollouts, eps=0.5).advantages)
    tokens = {"token_rewards": MASK * 1.0, "values": MASK * 0.5}
    gae = ap.Rollouts.from_padded(MASK, **tokens)
    plain = ap.credit("gae", gae, whiten=False).advantages
    np.testing.assert_array_equal(ap.credit("gae", gae, whiten=np.False_).advantages, plain)


def test_inputs_are_left_alone_and_results_are_the_callers() -> None:
    mask, scores = MASK.copy(), SCORES.copy()
    got = grpo(mask, scores)
    got += 1.0
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_array_equal(scores, SCORES)
    np.testing.assert_array_equal(grpo(mask, scores), EXPECTED)


def test_huge_scores_are_no_errors() -> None:
    for unit in (1e144, 1e-300):
        got = grpo(scores=SCORES * unit)
        assert np.isfinite(got).all()
