"""Step-level credit: GiGPO, MatchTIR's advantage, GRPO with process supervision.

Formulas: the papers named at each function, as their released code reads them. May
depend on `oracles.common` and `oracles.text`.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .common import (
    Array,
    Span,
    as_floats,
    discounted_suffix_sums,
    group_normalise,
    members_by_key,
    row_sums,
    runs,
    to_tokens,
)
from .text import similarity_ratio

Keys = Sequence[Hashable]


def gigpo_step_returns(step_rewards: ArrayLike, traj: Keys, *, gamma: float = 0.95) -> Array:
    """`G_k = r_k + gamma G_{k+1}` over the rows of each trajectory, in row order; `(N,)`."""
    rewards = as_floats(step_rewards)
    out = np.zeros_like(rewards)
    for members in members_by_key(traj).values():
        returns = discounted_suffix_sums([float(rewards[i]) for i in members], gamma)
        for i, value in zip(members, returns, strict=True):
            out[i] = value
    return out


def gigpo_step_groups(
    anchors: Sequence[Hashable], prompts: Keys, *, similarity_thresh: float | None = None
) -> list[int]:
    """A group number a row: equal anchor state within a prompt.

    With a threshold: first fit. A row joins the first cluster (in order of creation) whose first
    member has difflib ratio(row, member) >= threshold, else it opens a new one.
    """
    group = [-1] * len(anchors)
    created = 0
    for members in members_by_key(prompts).values():
        representatives: list[tuple[int, Hashable]] = []
        for i in members:
            for number, anchor in representatives:
                if similarity_thresh is None:
                    fits = anchors[i] == anchor
                else:
                    fits = similarity_ratio(str(anchors[i]), str(anchor)) >= similarity_thresh
                if fits:
                    group[i] = number
                    break
            else:
                representatives.append((created, anchors[i]))
                group[i] = created
                created += 1
    return group


def gigpo_episode(
    scores: ArrayLike,
    prompts: Keys,
    traj: Keys,
    *,
    scale: str = "none",
    stats_over: str = "rows",
    eps: float = 1e-6,
    singleton: str = "raw",
) -> Array:
    """The episode part `(N,)`: a row's score against its prompt.

    Statistics run over step rows (`stats_over="rows"`, so long trajectories weigh more) or over
    one row a (prompt, trajectory) ("trajs").
    """
    s = as_floats(scores)
    if stats_over == "rows":
        return group_normalise(s, prompts, scale=scale, eps=eps, singleton=singleton)
    if stats_over != "trajs":
        raise ValueError(f"unknown stats_over {stats_over!r}")
    pairs = list(zip(prompts, traj, strict=True))
    first = {pair: members[0] for pair, members in members_by_key(pairs).items()}
    firsts = list(first.values())
    per_traj = group_normalise(
        s[firsts], [prompts[i] for i in firsts], scale=scale, eps=eps, singleton=singleton
    )
    by_pair = dict(zip(first, per_traj, strict=True))
    return as_floats([by_pair[pair] for pair in pairs])


def gigpo(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    step_rewards: ArrayLike,
    anchors: Sequence[Hashable],
    prompts: Keys,
    traj: Keys,
    *,
    gamma: float = 0.95,
    mode: str = "mean_norm",
    step_weight: float = 1.0,
    similarity_thresh: float | None = None,
    stats_over: str = "rows",
    eps: float = 1e-6,
    episode_singleton: str = "raw",
    step_singleton: str = "zero",
) -> Array:
    """GiGPO (arXiv 2505.10978): episode part + step_weight * step part, `(N, T)`.

    `mode` is "mean_norm" (centred) or "mean_std_norm" (and divided by Bessel std + eps).
    """
    scale = {"mean_norm": "none", "mean_std_norm": "std"}[mode]
    episode = gigpo_episode(
        row_sums(token_level_rewards),
        prompts,
        traj,
        scale=scale,
        stats_over=stats_over,
        eps=eps,
        singleton=episode_singleton,
    )
    step = group_normalise(
        gigpo_step_returns(step_rewards, traj, gamma=gamma),
        gigpo_step_groups(anchors, prompts, similarity_thresh=similarity_thresh),
        scale=scale,
        eps=eps,
        singleton=step_singleton,
    )
    return to_tokens(episode + step_weight * step, response_mask)


def matchtir(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    *,
    lam: float = 0.9,
    scale: str = "std",
    eps: float = 1e-6,
    trajectory_singleton: str = "raw",
    turn_singleton: str = "raw",
) -> Array:
    """MatchTIR: `(trajectory part + turn part) / 2` on the tokens of each turn (run of mask 1).

    Trajectory part: GRPO of the row sums under `scale`. Turn part: `D_j = r_j + lam D_{j+1}`
    with r_j the reward at the turn's last token, z-scored over (prompt, turn index), always with
    the Bessel std.
    """
    rewards, mask = as_floats(token_level_rewards), as_floats(response_mask)
    trajectory = group_normalise(
        row_sums(rewards), index, scale=scale, eps=eps, singleton=trajectory_singleton
    )
    where: list[tuple[int, Span]] = []
    discounted: list[float] = []
    keys: list[Hashable] = []
    for i in range(mask.shape[0]):
        spans = runs(mask[i])
        turn_rewards = [float(rewards[i, end - 1]) for _, end in spans]
        discounted += discounted_suffix_sums(turn_rewards, lam)
        where += [(i, span) for span in spans]
        keys += [(index[i], j) for j in range(len(spans))]
    turn = group_normalise(discounted, keys, scale="std", eps=eps, singleton=turn_singleton)
    out = np.zeros_like(rewards)
    for (i, (start, end)), value in zip(where, turn, strict=True):
        for t in range(start, end):
            out[i, t] = (trajectory[i] + value) / 2.0
    return out


def grpo_process_supervision(
    step_rewards: Sequence[Sequence[float]],
    step_token_lengths: Sequence[Sequence[int]],
    index: Keys,
    *,
    eps: float = 1e-6,
    singleton: str = "raw",
) -> list[list[float]]:
    """DeepSeekMath's process form (arXiv 2402.03300): step rewards z-scored over all step
    rewards of the group, a token gets the sum over its own and later steps. Ragged by row."""
    flat = [float(p) for row in step_rewards for p in row]
    keys = [index[i] for i, row in enumerate(step_rewards) for _ in row]
    normed = iter(group_normalise(flat, keys, scale="std", eps=eps, singleton=singleton))
    out: list[list[float]] = []
    for row, lengths in zip(step_rewards, step_token_lengths, strict=True):
        sums = discounted_suffix_sums([float(next(normed)) for _ in row], 1.0)
        out.append([s for s, n in zip(sums, lengths, strict=True) for _ in range(n)])
    return out
