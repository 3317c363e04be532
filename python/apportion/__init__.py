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
from apportion.threads import get_num_threads, num_threads, set_num_threads
from apportion.tree import Leaves, Nodes, Search, search_rules

if TYPE_CHECKING:
    from apportion import loss as _loss
    from apportion import off_policy as _off_policy

    aggregate = _loss.aggregate
    kl_penalty = _loss.kl_penalty
    losses = _loss.losses
    policy_loss = _loss.policy_loss
    rollout_rejection = _off_policy.rollout_rejection
    rollout_weights = _off_policy.rollout_weights
    value_loss = _loss.value_loss

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
    "Search",
    "__version__",
    "columns",
    "credit",
    "example_rollouts",
    "get_num_threads",
    "iter_groups",
    "methods",
    "num_threads",
    "read_rollouts",
    "search_rules",
    "set_num_threads",
    "write_credit",
    "write_report",
]

_NEED_TORCH = {
    "aggregate": "loss",
    "kl_penalty": "loss",
    "losses": "loss",
    "policy_loss": "loss",
    "rollout_rejection": "off_policy",
    "rollout_weights": "off_policy",
    "value_loss": "loss",
}
"""Names that need torch, and the modules that they are in."""


def __getattr__(name: str) -> Any:
    """The policy loss is imported where it is used, because it needs torch."""
    if name in _NEED_TORCH:
        return getattr(importlib.import_module(f"apportion.{_NEED_TORCH[name]}"), name)
    raise AttributeError(f"module 'apportion' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names of the module, those that need torch included."""
    return sorted([*globals(), *_NEED_TORCH])
