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
from apportion.methods import MethodCard, columns, methods
from apportion.report import write_report
from apportion.rollouts import Rollouts
from apportion.search import Leaves, Nodes, Search
from apportion.threads import get_num_threads, num_threads, set_num_threads

if TYPE_CHECKING:
    from apportion import trees as _trees
    from apportion.loss import critic as _critic
    from apportion.loss import linear as _linear
    from apportion.loss import log_probs as _log_probs
    from apportion.loss import off_policy as _off_policy
    from apportion.loss import policy as _policy
    from apportion.loss.kl_control import AdaptiveKLController
    from apportion.search.rules import RuleCard, search_rules

    Trees = _trees.Trees
    read_trees = _trees.read_trees
    write_trees = _trees.write_trees
    aggregate = _policy.aggregate
    kl_penalty = _policy.kl_penalty
    linear_policy_loss = _linear.linear_policy_loss
    losses = _policy.losses
    policy_loss = _policy.policy_loss
    rollout_rejection = _off_policy.rollout_rejection
    rollout_weights = _off_policy.rollout_weights
    token_log_probs = _log_probs.token_log_probs
    value_loss = _critic.value_loss

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
    "AdaptiveKLController": "loss.kl_control",
    "RuleCard": "search.rules",
    "Trees": "trees",
    "aggregate": "loss.policy",
    "kl_penalty": "loss.policy",
    "linear_policy_loss": "loss.linear",
    "losses": "loss.policy",
    "policy_loss": "loss.policy",
    "read_trees": "trees",
    "rollout_rejection": "loss.off_policy",
    "rollout_weights": "loss.off_policy",
    "search_rules": "search.rules",
    "token_log_probs": "loss.log_probs",
    "value_loss": "loss.critic",
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
