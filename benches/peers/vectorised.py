"""GRPO and RLOO in plain vectorised NumPy: groups are consecutive rows of equal number.

The least that a person would write who knows the layout; a method that takes any ids
has to group first.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def grpo(token_rewards: Any, mask: Any, group_size: int, eps: float = 1e-6) -> Any:
    """Outcome against the group's mean over its Bessel deviation, `(N, T)`."""
    scores = token_rewards.sum(axis=1).reshape(-1, group_size)
    centred = scores - scores.mean(axis=1, keepdims=True)
    scaled = centred / (scores.std(axis=1, ddof=1, keepdims=True) + eps)
    return scaled.reshape(-1, 1) * mask.astype(np.float32)


def rloo(token_rewards: Any, mask: Any, group_size: int) -> Any:
    """Outcome less the mean of the group's others, `(N, T)`."""
    scores = token_rewards.sum(axis=1).reshape(-1, group_size)
    others = (scores.sum(axis=1, keepdims=True) - scores) / (group_size - 1)
    return (scores - others).reshape(-1, 1) * mask.astype(np.float32)
