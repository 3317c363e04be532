"""GiGPO (Feng et al. 2025, arXiv:2505.10978) as its authors' NumPy and torch code works.

Row by row in Python, on arrays of objects; to find a row's trajectory it looks through
the whole batch, once for every row.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from typing import Any

import numpy as np
import torch

EPS = 1e-6


def step_returns(step_rewards: Any, traj: Any, gamma: float) -> Any:
    """Discounted sum from each row to its trajectory's end; quadratic in the rows."""
    returns = np.zeros(len(traj), dtype=np.float32)
    for i in range(len(traj) - 1, -1, -1):
        own = np.flatnonzero(traj == traj[i])  # all rows are looked at
        later = own[own > i]
        following = returns[later[0]] if len(later) else 0.0
        returns[i] = step_rewards[i] + gamma * following
    return torch.from_numpy(returns)


def exact_groups(anchors: Any, uid: Any) -> Any:
    """A number a row: equal anchors of one prompt."""
    numbers = np.zeros(len(uid), dtype=np.int64)
    count = 0
    for prompt in dict.fromkeys(uid):
        clusters: dict[str, list[int]] = defaultdict(list)
        for i in np.flatnonzero(uid == prompt):
            clusters[anchors[i]].append(i)
        for members in clusters.values():
            numbers[members] = count
            count += 1
    return numbers


def similar_groups(anchors: Any, uid: Any, threshold: float) -> Any:
    """First fit by difflib: each row against the first row of every cluster so far."""
    numbers = np.zeros(len(uid), dtype=np.int64)
    count = 0
    for prompt in dict.fromkeys(uid):
        clusters: list[tuple[str, int]] = []
        for i in np.flatnonzero(uid == prompt):
            for first, number in clusters:
                if difflib.SequenceMatcher(None, anchors[i], first).ratio() >= threshold:
                    numbers[i] = number
                    break
            else:
                clusters.append((anchors[i], count))
                numbers[i] = count
                count += 1
    return numbers


def _centred(values: Any, keys: Any, alone: str) -> Any:
    """Each value less the mean of its key's, by a loop over rows and one over keys."""
    by_key = defaultdict(list)
    for i in range(len(values)):
        by_key[keys[i]].append(values[i])
    mean = {}
    for key, members in by_key.items():
        if len(members) > 1:
            mean[key] = torch.mean(torch.stack(members))
        else:
            mean[key] = members[0] if alone == "zero" else torch.tensor(0.0)
    out = torch.zeros_like(values)
    for i in range(len(values)):
        out[i] = values[i] - mean[keys[i]]
    return out


def episode_part(token_rewards: Any, mask: Any, uid: Any) -> Any:
    """Outcome less the prompt's mean over rows, `(N, T)`."""
    return _centred(token_rewards.sum(dim=-1), uid, "raw").unsqueeze(-1) * mask


def step_part(returns: Any, mask: Any, groups: Any) -> Any:
    """Return less the mean over the same state, `(N, T)`."""
    return _centred(returns, groups, "zero").unsqueeze(-1) * mask


def advantage(
    token_rewards: Any,
    mask: Any,
    step_rewards: Any,
    anchors: Any,
    uid: Any,
    traj: Any,
    gamma: float = 0.95,
    threshold: float | None = None,
) -> Any:
    """The whole estimator, mean-centred, step weight 1."""
    returns = step_returns(step_rewards, traj, gamma)
    if threshold is None:
        groups = exact_groups(anchors, uid)
    else:
        groups = similar_groups(anchors, uid, threshold)
    return episode_part(token_rewards, mask, uid) + step_part(returns, mask, groups)
