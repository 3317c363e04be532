"""TRL itself, and the methods of its trainer that are extended. Needs trl and torch."""

from __future__ import annotations

import inspect

from apportion.errors import ExtraMissingError

INSTALL = "pip install 'apportion[trl]'"

try:
    import trl
    from accelerate.utils import gather_object
except ImportError as error:
    raise ExtraMissingError(f"apportion.integrations.trl needs trl: {INSTALL}") from error

__all__ = ["check_seam", "gather_object", "trl"]

SEAM = {
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "get_high_entropy_mask": ["self", "entropies", "mask", "threshold"],
}
"""Methods of TRL's trainer that are extended or called, with their parameters in TRL 1.16."""


def check_seam(trainer: type) -> None:
    """Refuse a TRL whose trainer has not the methods that `CreditMixin` extends."""
    for name, expected in SEAM.items():
        method = getattr(trainer, name, None)
        got = None if method is None else list(inspect.signature(method).parameters)
        if got != expected:
            raise ExtraMissingError(
                f"trl {trl.__version__}: the parameters of {trainer.__name__}.{name} are {got}, "
                f"expected {expected} as in trl 1.16; install one that fits: {INSTALL}"
            )
