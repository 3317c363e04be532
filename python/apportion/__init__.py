"""Credit assignment for reinforcement learning of language models.

Given rollouts and rewards, which tokens, turns and branches earned the outcome?

    rollouts = apportion.Rollouts.from_padded(mask, group_ids=..., outcome_rewards=...)
    advantages = apportion.credit("grpo", rollouts).to_padded()

Importing this module needs NumPy alone. Whatever needs torch, triton, pyarrow
or a trainer is imported where it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from apportion._core import __version__
from apportion.credit import Credit, credit
from apportion.errors import (
    ApportionError,
    DtypeError,
    ExtraMissingError,
    FileFormatError,
    InputError,
    InternalError,
    MissingColumnError,
    OptionError,
)
from apportion.io import example_rollouts, iter_groups, read_rollouts, write_credit
from apportion.kl_control import AdaptiveKLController
from apportion.methods import MethodCard, columns, methods
from apportion.report import write_report
from apportion.rollouts import Rollouts
from apportion.search_data import Leaves, Nodes
from apportion.threads import get_num_threads, num_threads, set_num_threads
from apportion.tree import Search

if TYPE_CHECKING:
    from apportion import critic_loss as _critic_loss
    from apportion import linear_loss as _linear_loss
    from apportion import log_probs as _log_probs
    from apportion import loss as _loss
    from apportion import off_policy as _off_policy
    from apportion import trees as _trees
    from apportion.rules import RuleCard, search_rules

    Trees = _trees.Trees
    read_trees = _trees.read_trees
    write_trees = _trees.write_trees
    aggregate = _loss.aggregate
    kl_penalty = _loss.kl_penalty
    linear_policy_loss = _linear_loss.linear_policy_loss
    losses = _loss.losses
    policy_loss = _loss.policy_loss
    rollout_rejection = _off_policy.rollout_rejection
    rollout_weights = _off_policy.rollout_weights
    token_log_probs = _log_probs.token_log_probs
    value_loss = _critic_loss.value_loss

__all__ = [
    "AdaptiveKLController",
    "ApportionError",
    "Credit",
    "DtypeError",
    "ExtraMissingError",
    "FileFormatError",
    "InputError",
    "InternalError",
    "Leaves",
    "MethodCard",
    "MissingColumnError",
    "Nodes",
    "OptionError",
    "Rollouts",
    "RuleCard",
    "Search",
    "Trees",
    "__version__",
    "columns",
    "credit",
    "example_rollouts",
    "get_num_threads",
    "iter_groups",
    "methods",
    "num_threads",
    "read_rollouts",
    "read_trees",
    "search_rules",
    "set_num_threads",
    "write_credit",
    "write_report",
    "write_trees",
]

_LATER = {
    "RuleCard": "rules",
    "Trees": "trees",
    "aggregate": "loss",
    "kl_penalty": "loss",
    "linear_policy_loss": "linear_loss",
    "losses": "loss",
    "policy_loss": "loss",
    "read_trees": "trees",
    "rollout_rejection": "off_policy",
    "rollout_weights": "off_policy",
    "search_rules": "rules",
    "token_log_probs": "log_probs",
    "value_loss": "critic_loss",
    "write_trees": "trees",
}
"""Names that need torch or take long to import, and the modules that they are in."""


def __getattr__(name: str) -> Any:
    """What needs torch, and what few programs use, is imported where it is used."""
    if name in _LATER:
        return getattr(importlib.import_module(f"apportion.{_LATER[name]}"), name)
    raise AttributeError(f"module 'apportion' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names of the module, those imported later included."""
    return sorted([*globals(), *_LATER])
