"""Tensors in, tensors out; those that cannot be read are named."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import apportion as ap  # noqa: E402
from bad.values import tensors  # noqa: E402

MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1]])
SCORES = torch.tensor([1.0, 0.0, 2.0])


def grpo(mask: torch.Tensor = MASK, scores: torch.Tensor = SCORES) -> torch.Tensor:
    rollouts = ap.Rollouts.from_padded(mask, group_ids=["a"] * 3, outcome_rewards=scores)
    return ap.credit("grpo", rollouts).to_padded()


@pytest.mark.parametrize("bad", list(tensors()), ids=lambda bad: bad.what)
def test_tensors_that_cannot_be_read(bad: object) -> None:
    with pytest.raises(bad.error) as caught:
        bad.call()
    assert all(part in str(caught.value) for part in bad.says), str(caught.value)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.bfloat16, torch.float16]
)
def test_masks_of_any_type(dtype: torch.dtype) -> None:
    got = grpo(MASK.to(dtype))
    assert isinstance(got, torch.Tensor) and got.dtype == torch.float32
    torch.testing.assert_close(got, grpo())


def test_scores_of_any_type() -> None:
    for scores in (SCORES.to(torch.bfloat16), SCORES.to(torch.float16), SCORES.long()):
        torch.testing.assert_close(grpo(scores=scores).float(), grpo())
    assert grpo(scores=SCORES.double()).dtype == torch.float64
    torch.testing.assert_close(grpo(scores=SCORES.clone().requires_grad_()), grpo())


def test_views() -> None:
    torch.testing.assert_close(grpo(MASK.t().contiguous().t()), grpo())
    torch.testing.assert_close(grpo(MASK.flip(0).flip(0)), grpo())
    ids = torch.tensor([7, 7, 7])
    rollouts = ap.Rollouts.from_padded(MASK, group_ids=ids, outcome_rewards=SCORES)
    np.testing.assert_array_equal(rollouts.groups, [0, 0, 0])


def test_trees_and_ragged_rows_come_back_in_kind() -> None:
    parents, outcomes = [-1, 0, 0], [np.nan, 1.0, 0.0]
    offsets = [0, 1, 3, 4]
    want = ap.credit(
        "spo", ap.Rollouts.from_tree(parents, token_offsets=offsets, outcome_rewards=outcomes)
    )
    assert isinstance(want.to_ragged(), np.ndarray)
    np.testing.assert_array_equal(want.to_ragged(), want.advantages)
    for given in (
        {"parents": torch.tensor(parents), "outcome_rewards": outcomes},
        {"parents": parents, "outcome_rewards": torch.tensor(outcomes)},
        {"parents": parents, "outcome_rewards": outcomes, "mask": torch.ones(4)},
    ):
        rollouts = ap.Rollouts.from_tree(token_offsets=torch.tensor(offsets), **given)
        credit = ap.credit("spo", rollouts)
        got = credit.to_ragged(dtype="float64")
        assert isinstance(got, torch.Tensor) and got.dtype == torch.float64
        np.testing.assert_array_equal(got.numpy(), want.to_ragged(dtype="float64"))
        assert isinstance(credit.to_ragged("node_values"), torch.Tensor)
    flat = ap.Rollouts.from_ragged(offsets, group_size=3, outcome_rewards=SCORES)
    assert isinstance(ap.credit("grpo", flat).to_ragged(), torch.Tensor)
    padded = ap.Rollouts.from_padded(torch.ones(2, 3), group_size=2, outcome_rewards=[1.0, 0.0])
    assert ap.credit("grpo", padded).to_ragged().shape == (6,)
    with pytest.raises(ap.InputError, match=r"use to_ragged\(\)"):
        ap.credit("grpo", flat).to_padded()
