"""Credit assignment for reinforcement learning of language models.

Given rollouts and rewards, which tokens, turns and branches earned the outcome?

    rollouts = apportion.Rollouts.from_padded(mask, group_ids=..., outcome_rewards=...)
    advantages = apportion.credit("grpo", rollouts).to_padded()

Importing this module needs NumPy alone. Whatever needs torch, triton, pyarrow
or a trainer is imported where it is used.
"""

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
from apportion.threads import get_num_threads, num_threads, set_num_threads
from apportion.tree import Leaves, Nodes, Search, search_rules

__all__ = [
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
