"""Token-level returns and advantages: GAE, REINFORCE++, ReMax, optimal token baselines.

Formulas: verl `trainer/ppo/core_algos.py`, OpenRLHF `experience_maker.py`. May depend on
`oracles.common` alone.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .common import Array, as_floats, last_valid, masked_whiten, members_by_key

Keys = Sequence[Hashable]


def gae(
    token_level_rewards: ArrayLike,
    values: ArrayLike,
    response_mask: ArrayLike,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    skip_masked: bool = True,
    whiten: bool = True,
    remask: bool = False,
) -> tuple[Array, Array]:
    """Advantages and returns `(N, T)` of generalised advantage estimation (arXiv 1506.02438).

    delta = r + gamma V' - V, A = delta + gamma lam A'. Under `skip_masked` (verl) a masked token
    leaves both carried numbers alone and emits the carried A; its own reward and value vanish.
    Otherwise (SkyRL, slime) the scan is blind to the mask. Returns are A + V everywhere, before
    whitening. `remask` multiplies the whitened advantages by the mask, which verl does not.
    """
    rewards, v, mask = as_floats(token_level_rewards), as_floats(values), as_floats(response_mask)
    advantages = np.zeros_like(rewards)
    for i in range(rewards.shape[0]):
        next_value = carried = 0.0
        for t in range(rewards.shape[1] - 1, -1, -1):
            if mask[i, t] or not skip_masked:
                delta = rewards[i, t] + gamma * next_value - v[i, t]
                carried = delta + gamma * lam * carried
                next_value = v[i, t]
            advantages[i, t] = carried
    returns = advantages + v
    if whiten:
        advantages = masked_whiten(advantages, mask)
    if remask:
        advantages = advantages * mask
    return advantages, returns


def gae_openrlhf(
    rewards: ArrayLike,
    values: ArrayLike,
    action_mask: ArrayLike,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> tuple[Array, Array]:
    """OpenRLHF's GAE: rewards and values are multiplied by the mask, then the plain scan runs
    over every position, so credit decays by gamma * lam on masked tokens too. Not whitened."""
    mask = as_floats(action_mask)
    return gae(
        as_floats(rewards) * mask,
        as_floats(values) * mask,
        mask,
        gamma=gamma,
        lam=lam,
        skip_masked=False,
        whiten=False,
    )


def cumulative_returns_openrlhf(
    rewards: ArrayLike, action_mask: ArrayLike, *, gamma: float = 1.0
) -> Array:
    """`G_t = r_t m_t + gamma G_{t+1}` over every position, `(N, T)`; no mask skip."""
    r = as_floats(rewards) * as_floats(action_mask)
    out = np.zeros_like(r)
    for i in range(r.shape[0]):
        running = 0.0
        for t in range(r.shape[1] - 1, -1, -1):
            running = r[i, t] + gamma * running
            out[i, t] = running
    return out


def openrlhf_reward(
    r: ArrayLike,
    kl: ArrayLike,
    action_mask: ArrayLike,
    *,
    kl_coef: float,
    reward_clip_range: Sequence[float] | None = None,
) -> Array:
    """Token rewards `(N, T)`: the clipped score on the last action token, minus kl_coef * kl on
    every action token (left out when kl_coef <= 0)."""
    scores, penalty, mask = as_floats(r), as_floats(kl), as_floats(action_mask)
    out = np.zeros_like(mask)
    for i in range(mask.shape[0]):
        if kl_coef > 0:
            out[i] = -kl_coef * penalty[i] * mask[i]
        score = float(scores[i])
        if reward_clip_range is not None:
            score = min(max(score, reward_clip_range[0]), reward_clip_range[1])
        end = last_valid(mask[i])
        if end is not None:
            out[i, end] += score
    return out


def whiten_openrlhf(advantages: ArrayLike, action_mask: ArrayLike, *, divide: bool = True) -> Array:
    """`(A - mean) / sqrt(max(biased var, 1e-8))` over the batch's valid tokens `(N, T)`."""
    x, mask = as_floats(advantages), as_floats(action_mask)
    valid = [float(v) for v, keep in zip(x.ravel(), mask.ravel(), strict=True) if keep]
    if not valid:
        return np.zeros_like(x)
    centre = sum(valid) / len(valid)
    var = sum((v - centre) ** 2 for v in valid) / len(valid)
    return (x - centre) / (max(var, 1e-8) ** 0.5 if divide else 1.0)


def reinforce_pp(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    *,
    gamma: float = 1.0,
    reset_at_mask: bool = True,
) -> tuple[Array, Array]:
    """Advantages and returns `(N, T)` of REINFORCE++ (arXiv 2501.03262).

    `G = r_t + gamma G` from the end. Under `reset_at_mask` (SkyRL, older verl) G is emitted at
    every position and then multiplied by the mask, so an inner masked token cuts the flow.
    Otherwise (verl 0.9) masked tokens are stepped over: G passes them unchanged and undecayed,
    and their own reward is dropped. Advantages are the batch-whitened returns, masked.
    """
    rewards, mask = as_floats(token_level_rewards), as_floats(response_mask)
    returns = np.zeros_like(rewards)
    for i in range(rewards.shape[0]):
        running = 0.0
        for t in range(rewards.shape[1] - 1, -1, -1):
            if reset_at_mask:
                running = rewards[i, t] + gamma * running
                returns[i, t] = running
                running *= mask[i, t]
            elif mask[i, t]:
                running = rewards[i, t] + gamma * running
                returns[i, t] = running
    return masked_whiten(returns, mask) * mask, returns


def remax(
    token_level_rewards: ArrayLike, response_mask: ArrayLike, reward_baselines: ArrayLike
) -> tuple[Array, Array]:
    """ReMax: `G_t = sum of r_u m_u for u >= t`, and `A_t = G_t - b_i m_t`; both `(N, T)`.

    A masked position keeps the later rewards' sum: there is no final mask.
    """
    mask = as_floats(response_mask)
    returns = _masked_suffix_sums(as_floats(token_level_rewards), mask)
    return returns - as_floats(reward_baselines)[:, None] * mask, returns


def _masked_suffix_sums(rewards: Array, mask: Array) -> Array:
    out = np.zeros_like(rewards)
    for i in range(rewards.shape[0]):
        running = 0.0
        for t in range(rewards.shape[1] - 1, -1, -1):
            running += rewards[i, t] * mask[i, t]
            out[i, t] = running
    return out


def optimal_token_baseline(
    token_level_rewards: ArrayLike,
    response_mask: ArrayLike,
    index: Keys,
    old_log_probs: ArrayLike,
    sum_pi_squared: ArrayLike,
    *,
    rollout_is_weights: ArrayLike | None = None,
    handle_zero_tail: bool = False,
    multi_turn: bool = False,
    eps: float = 1e-8,
) -> tuple[Array, Array]:
    """Advantages and returns `(N, T)` under verl's optimal token baseline.

    With G the masked suffix sums of rewards and W the masked prefix sums of
    1 - 2 exp(log pi) + sum pi^2 (times the squared importance weight), the baseline of a group
    at position t is sum(G W m) / (sum(W m) + eps); A = (G - b) m. `multi_turn` aligns the rows
    of a group by their count of valid tokens rather than by position. A group of one row (among
    the non-empty ones, in multi-turn form) has baseline 0. `handle_zero_tail`: where exactly one
    row is longest, its baseline beyond the second length is 0.
    """
    rewards, mask = as_floats(token_level_rewards), as_floats(response_mask)
    returns = _masked_suffix_sums(rewards, mask)
    energy = 1.0 - 2.0 * np.exp(as_floats(old_log_probs)) + as_floats(sum_pi_squared)
    if rollout_is_weights is not None:
        energy = energy * as_floats(rollout_is_weights) ** 2
    weight = np.zeros_like(energy)
    for i in range(mask.shape[0]):
        running = 0.0
        for t in range(mask.shape[1]):
            running += energy[i, t] * mask[i, t]
            weight[i, t] = running
    baseline = np.zeros_like(rewards)
    for members in members_by_key(index).values():
        _group_baseline(baseline, members, returns, weight, mask, handle_zero_tail, multi_turn, eps)
    return (returns - baseline) * mask, returns


def _group_baseline(
    baseline: Array,
    members: list[int],
    returns: Array,
    weight: Array,
    mask: Array,
    handle_zero_tail: bool,
    multi_turn: bool,
    eps: float,
) -> None:
    """Fill the baseline of one group's valid tokens. A row's *slot* s holds its s-th valid token
    (`multi_turn`), or the token at position s if that is valid."""
    slots: dict[int, dict[int, int]] = {}
    for i in members:
        valid = [t for t in range(mask.shape[1]) if mask[i, t]]
        if multi_turn:
            slots[i] = dict(enumerate(valid))
        else:
            slots[i] = {t: t for t in valid}
    rows = [i for i in members if slots[i] or not multi_turn]
    if len(rows) < 2:
        return
    lengths = {i: len(slots[i]) for i in rows}
    second, longest = sorted(lengths.values())[-2:]
    for s in range(mask.shape[1]):
        present = [i for i in rows if s in slots[i]]
        top = sum(returns[i, slots[i][s]] * weight[i, slots[i][s]] for i in present)
        bottom = sum(weight[i, slots[i][s]] for i in present)
        for i in present:
            alone = handle_zero_tail and lengths[i] == longest > second
            baseline[i, slots[i][s]] = 0.0 if alone and s >= second else top / (bottom + eps)
