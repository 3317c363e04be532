"""Reference cases as tensors, and judges of what comes back. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from golden_replay import Case, array

CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def tensor(case: Case, name: str) -> torch.Tensor:
    double = case["meta"].get("dtype") == "float64"
    return torch.from_numpy(array(case["inputs"][name])).to(
        torch.float64 if double else torch.float32
    )


def given(case: Case, *names: str) -> list[torch.Tensor]:
    """The first of them with a gradient."""
    tensors = [tensor(case, name) for name in names]
    tensors[0].requires_grad_()
    return tensors


def gradient(loss: torch.Tensor, of: torch.Tensor) -> np.ndarray:
    loss.backward()
    assert of.grad is not None
    return of.grad.numpy()


def same_numbers(
    got: Mapping[str, torch.Tensor | None], rtol: float = CLOSE["rtol"]
) -> Callable[[Any], bool]:
    """Judges a dictionary of numbers, each of which must be among `got`."""

    def judge(want: Mapping[str, Any]) -> bool:
        pairs = [(float(got[name]), float(value)) for name, value in want.items()]
        return all(np.isclose(a, b, rtol=rtol, atol=rtol / 10, equal_nan=True) for a, b in pairs)

    return judge
