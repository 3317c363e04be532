"""verl: its own estimators made faster, and ours under `adv_estimator=apportion_<name>`.

    from apportion.integrations.verl import accelerate
    print(accelerate())            # which functions of verl were replaced
    accelerate().undo()            # as it was

`accelerate` replaces the estimators of `verl.trainer.ppo.core_algos` by equal
ones, in that module, in verl's registry and wherever verl has imported them.
Equal within float32 rounding but for two deliberate differences: scores of a
group that are all equal give exactly 0, where a rounded mean over a small
epsilon may not; and a batch of at most one trained token whitens to 0, where
verl raises.

`register` adds every method that can run on what verl hands an estimator. The
entry point `verl.plugins` calls it in each process that imports verl, so that
installing the wheel is enough. Options come from the algorithm's config, under
`apportion`: `+algorithm.apportion.gamma=0.95`.

Written against verl 0.9. Imports verl and torch, and is imported by nothing.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion.credit import Credit, credit
from apportion.errors import ExtraMissingError, InputError, MissingColumnError
from apportion.methods import methods
from apportion.rollouts import Rollouts

logger = logging.getLogger(__name__)

CORE = "verl.trainer.ppo.core_algos"
PREFIX = "apportion_"

Pair = tuple[Any, Any]  # advantages and returns, each (N, T)


def _core_algos() -> Any:
    try:
        return importlib.import_module(CORE)
    except ImportError as error:
        raise ExtraMissingError(
            f"apportion.integrations.verl needs verl, which cannot be imported ({error}); "
            "install it with: pip install verl"
        ) from error


def _credit(
    method: str, rewards: Any, mask: Any, index: Any = None, like: str | None = None, **more: Any
) -> Credit:
    """Runs a method on verl's arrays; columns and options are told apart by name."""
    known = {column.name for column in methods()[method].columns}
    columns = {name: value for name, value in more.items() if name in known}
    options = {name: value for name, value in more.items() if name not in known}
    rollouts = Rollouts.from_padded(mask, group_ids=index, token_rewards=rewards, **columns)
    return credit(method, rollouts, like=like, **options)


def _same(result: Credit) -> Pair:
    """verl's outcome estimators return one tensor twice."""
    advantages = result.to_padded()
    return advantages, advantages


def _both(result: Credit) -> Pair:
    return result.to_padded(), result.to_padded("returns")


def _scale(divide: bool) -> str:
    return "std" if divide else "none"


def _option(config: Any, name: str, default: Any) -> Any:
    return default if config is None else config.get(name, default)


# The functions below have verl's names, parameters and defaults, because verl
# and its users call them by position and by keyword.


def compute_gae_advantage_return(
    token_level_rewards: Any, values: Any, response_mask: Any, gamma: Any, lam: Any
) -> Pair:
    """`gae` as verl computes it."""
    options: dict[str, Any] = {"gamma": float(gamma), "lam": float(lam), "values": values}
    return _both(_credit("gae", token_level_rewards, response_mask, None, "verl", **options))


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
    return _same(_credit("grpo", token_level_rewards, response_mask, index, "verl", **options))


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
    return _same(_credit("gdpo", token_level_rewards, response_mask, index, "verl", **options))


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
    divide = _option(config, "norm_adv_by_std_in_grpo", norm_adv_by_std_in_grpo)
    options = {"eps": epsilon, "scale": _scale(divide)}
    return _same(_credit("grpo_passk", token_level_rewards, response_mask, index, None, **options))


def compute_reinforce_plus_plus_outcome_advantage(
    token_level_rewards: Any, response_mask: Any, config: Any = None, **kwargs: Any
) -> Pair:
    """`reinforce_pp`; the discount is the config's."""
    options = {"gamma": float(_option(config, "gamma", 1.0))}
    return _both(
        _credit("reinforce_pp", token_level_rewards, response_mask, None, "verl", **options)
    )


def compute_remax_outcome_advantage(
    token_level_rewards: Any,
    reward_baselines: Any,
    response_mask: Any,
    config: Any = None,
    **kwargs: Any,
) -> Pair:
    """`remax` as verl computes it."""
    return _both(
        _credit(
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
        return _same(_credit(method, token_level_rewards, response_mask, index, **fixed))

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
        return _both(_credit(method, token_level_rewards, response_mask, index, "verl", **options))

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


@dataclass(frozen=True)
class Replacement:
    """What `accelerate` replaced. Printing it lists the functions; `undo` restores them."""

    places: tuple[tuple[str, str, Any], ...]  # module, attribute, verl's own function
    registry: tuple[tuple[str, Any], ...]  # estimator, verl's own function

    def stands(self) -> bool:
        """Whether verl still has our functions."""
        return all(getattr(sys.modules[m], a) is not own for m, a, own in self.places)

    def undo(self) -> None:
        """Put verl's own functions back."""
        for module, attribute, own in self.places:
            setattr(sys.modules[module], attribute, own)
        registry = _core_algos().ADV_ESTIMATOR_REGISTRY
        for name, own in self.registry:
            registry[name] = own

    def __str__(self) -> str:
        """One line a function."""
        lines = [f"  {module}.{attribute}" for module, attribute, _ in self.places]
        return "apportion replaced in verl:\n" + "\n".join(lines)


def accelerate() -> Replacement:
    """Replace verl's estimators by equal and faster ones; see the module's text.

    Idempotent: a second call replaces nothing and returns the same object, so that
    `accelerate().undo()` works from anywhere.
    """
    global _active
    core = _core_algos()
    if _active is not None and _active.stands():
        return _active
    places, registry = [], []
    for name, ours in REPLACEMENTS.items():
        own = getattr(core, name, None)
        if own is None:
            logger.warning("verl has no %s; apportion was written against verl 0.9", name)
            continue
        for module_name, module in list(sys.modules.items()):
            if module_name.startswith("verl") and getattr(module, name, None) is own:
                setattr(module, name, ours)
                places.append((module_name, name, own))
        for estimator, registered in list(core.ADV_ESTIMATOR_REGISTRY.items()):
            if registered is own:
                core.ADV_ESTIMATOR_REGISTRY[estimator] = ours
                registry.append((estimator, own))
    _active = Replacement(tuple(places), tuple(registry))
    logger.info("%s", _active)
    return _active


_active: Replacement | None = None


def register() -> list[str]:
    """Register every method as the estimator `apportion_<name>`; returns the names."""
    core = _core_algos()
    names = []
    for method in methods():
        name = PREFIX + method
        if name not in core.ADV_ESTIMATOR_REGISTRY:
            core.register_adv_est(name)(_estimator(method))
        names.append(name)
    return names


def _estimator(method: str) -> Callable[..., Pair]:
    """An estimator in verl's form. verl hands it rewards, mask, uid and config, and
    whatever else the trainer puts into its keyword arguments."""

    def estimator(
        token_level_rewards: Any,
        response_mask: Any,
        index: Any = None,
        config: Any = None,
        **kwargs: Any,
    ) -> Pair:
        known = {column.name for column in methods()[method].columns}
        columns = {k: v for k, v in kwargs.items() if k in known and v is not None}
        options = dict(_option(config, "apportion", None) or {})
        like = options.pop("like", None)
        result = _credit(
            method, token_level_rewards, response_mask, index, like, **columns, **options
        )
        return _both(result) if "returns" in result.values else _same(result)

    estimator.__name__ = PREFIX + method
    estimator.__doc__ = methods()[method].title
    return estimator
