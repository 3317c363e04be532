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
