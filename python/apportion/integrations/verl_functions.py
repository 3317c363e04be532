"""verl's estimators of advantages, computed by ours: what `accelerate` puts in their place.

Depends on `credit`, `errors`, `methods` and `rollouts`; imports neither verl nor torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from apportion.credit import Credit, credit
from apportion.errors import InputError, MissingColumnError
from apportion.methods import methods
from apportion.rollouts import Rollouts

Pair = tuple[Any, Any]  # advantages and returns, each (N, T)


def run(
    method: str, rewards: Any, mask: Any, index: Any = None, like: str | None = None, **more: Any
) -> Credit:
    """Runs a method on verl's arrays; columns and options are told apart by name."""
    known = {column.name for column in methods()[method].columns}
    columns = {name: value for name, value in more.items() if name in known}
    options = {name: value for name, value in more.items() if name not in known}
    rollouts = Rollouts.from_padded(mask, group_ids=index, token_rewards=rewards, **columns)
    return credit(method, rollouts, like=like, **options)


def same(result: Credit) -> Pair:
    """verl's outcome estimators return one tensor twice."""
    advantages = result.to_padded()
    return advantages, advantages


def both(result: Credit) -> Pair:
    """Advantages and returns."""
    return result.to_padded(), result.to_padded("returns")


def _scale(divide: bool) -> str:
    return "std" if divide else "none"


def option(config: Any, name: str, default: Any) -> Any:
    """An entry of verl's config, which may be None."""
    return default if config is None else config.get(name, default)


# The functions below have verl's names, parameters and defaults, because verl
# and its users call them by position and by keyword.


def compute_gae_advantage_return(
    token_level_rewards: Any, values: Any, response_mask: Any, gamma: Any, lam: Any
) -> Pair:
    """`gae` as verl computes it."""
    options: dict[str, Any] = {"gamma": float(gamma), "lam": float(lam), "values": values}
    return both(run("gae", token_level_rewards, response_mask, None, "verl", **options))


def compute_grpo_outcome_advantage(
    token_level_rewards: Any,
    response_mask: Any,
    index: Any,
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    config: Any = None,
) -> Pair:
    """`grpo` as verl computes it."""
    options = {"eps": epsilon, "scale": _scale(norm_adv_by_std_in_grpo)}
    return same(run("grpo", token_level_rewards, response_mask, index, "verl", **options))


def compute_gdpo_outcome_advantage(
    token_level_rewards: Any,
    response_mask: Any,
    index: Any,
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    config: Any = None,
    non_tensor_batch: Mapping[str, Any] | None = None,
    batch: Any = None,
    **kwargs: Any,
) -> Pair:
    """`gdpo` on the reward components that `algorithm.gdpo_reward_keys` names."""
    options: dict[str, Any] = {"eps": epsilon, "scale": _scale(norm_adv_by_std_in_grpo)}
    if config is not None and non_tensor_batch is not None and batch is not None:
        keys = config.get("gdpo_reward_keys", None)
        if not keys:
            raise InputError("algorithm.gdpo_reward_keys: got none, expected names of rewards")
        missing = [key for key in keys if key not in non_tensor_batch]
        if missing:
            raise MissingColumnError(
                f"gdpo_reward_keys: {missing[0]!r} is not among {sorted(non_tensor_batch)}"
            )
        parts = [np.asarray(non_tensor_batch[key], dtype=np.float32) for key in keys]
        options["reward_matrix"] = np.stack(parts, axis=1)
        weights = config.get("gdpo_reward_weights", None)
        if weights is not None:
            options["reward_weights"] = [float(weight) for weight in weights]
    return same(run("gdpo", token_level_rewards, response_mask, index, "verl", **options))


def compute_grpo_passk_outcome_advantage(
    token_level_rewards: Any,
    response_mask: Any,
    index: Any,
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    config: Any = None,
    **kwargs: Any,
) -> Pair:
    """`grpo_passk`; the config says whether to divide, as in verl."""
    divide = option(config, "norm_adv_by_std_in_grpo", norm_adv_by_std_in_grpo)
    options = {"eps": epsilon, "scale": _scale(divide)}
    return same(run("grpo_passk", token_level_rewards, response_mask, index, None, **options))


def compute_reinforce_plus_plus_outcome_advantage(
    token_level_rewards: Any, response_mask: Any, config: Any = None, **kwargs: Any
) -> Pair:
    """`reinforce_pp`; the discount is the config's."""
    options = {"gamma": float(option(config, "gamma", 1.0))}
    return both(run("reinforce_pp", token_level_rewards, response_mask, None, "verl", **options))


def compute_remax_outcome_advantage(
    token_level_rewards: Any,
    reward_baselines: Any,
    response_mask: Any,
    config: Any = None,
    **kwargs: Any,
) -> Pair:
    """`remax` as verl computes it."""
    return both(
        run(
            "remax",
            token_level_rewards,
            response_mask,
            like="verl",
            reward_baselines=reward_baselines,
        )
    )


def _by_group(method: str, **fixed: Any) -> Callable[..., Pair]:
    """An estimator that verl calls with rewards, mask and index alone."""

    def estimator(
        token_level_rewards: Any,
        response_mask: Any,
        index: Any,
        epsilon: float = 1e-6,
        config: Any = None,
        **kwargs: Any,
    ) -> Pair:
        return same(run(method, token_level_rewards, response_mask, index, **fixed))

    estimator.__doc__ = f"`{method}` as verl computes it."
    return estimator


def _grpo_vectorized(
    token_level_rewards: Any,
    response_mask: Any,
    index: Any,
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    config: Any = None,
) -> Pair:
    """`grpo`; verl 0.9.1 no longer floors the variance in its vectorised form."""
    return compute_grpo_outcome_advantage(
        token_level_rewards, response_mask, index, epsilon, norm_adv_by_std_in_grpo
    )


def _token_baseline(method: str) -> Callable[..., Pair]:
    def estimator(
        token_level_rewards: Any,
        response_mask: Any,
        index: Any,
        old_log_probs: Any,
        sum_pi_squared: Any,
        rollout_is_weights: Any = None,
        handle_zero_tail: bool = True,
        epsilon: float = 1e-8,
        **kwargs: Any,
    ) -> Pair:
        options: dict[str, Any] = {
            "old_log_probs": old_log_probs,
            "sum_pi_squared": sum_pi_squared,
            "rollout_is_weights": rollout_is_weights,
            "zero_tail": handle_zero_tail,
            "eps": epsilon,
        }
        return both(run(method, token_level_rewards, response_mask, index, "verl", **options))

    estimator.__doc__ = f"`{method}` as verl computes it."
    return estimator


REPLACEMENTS: Mapping[str, Callable[..., Pair]] = {
    "compute_gae_advantage_return": compute_gae_advantage_return,
    "compute_grpo_outcome_advantage": compute_grpo_outcome_advantage,
    "compute_grpo_vectorized_outcome_advantage": _grpo_vectorized,
    "compute_gdpo_outcome_advantage": compute_gdpo_outcome_advantage,
    "compute_grpo_passk_outcome_advantage": compute_grpo_passk_outcome_advantage,
    "compute_reinforce_plus_plus_baseline_outcome_advantage": _by_group(
        "reinforce_pp_baseline", like="verl"
    ),
    "compute_rloo_outcome_advantage": _by_group("rloo", like="verl"),
    "compute_opo_outcome_advantage": _by_group("opo", like="verl"),
    "compute_reinforce_plus_plus_outcome_advantage": compute_reinforce_plus_plus_outcome_advantage,
    "compute_remax_outcome_advantage": compute_remax_outcome_advantage,
    "compute_gpg_outcome_advantage": _by_group("gpg", like="verl"),
    "compute_rloo_vectorized_outcome_advantage": _by_group("rloo", like="verl_vectorized"),
    "compute_optimal_token_baseline_advantage": _token_baseline("otb"),
    "compute_multi_turn_optimal_token_baseline_advantage": _token_baseline("tir_otb"),
}
