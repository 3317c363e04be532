"""Settings of `CreditMixin`, checked before the trainer is built. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.errors import OptionError
from apportion.integrations.trl.columns import Function
from apportion.methods import methods


def preset_of(credit: str | Function, like: str | None, options: Mapping[str, Any]) -> str | None:
    """The preset to run with, once method, preset and option names are known to exist."""
    if callable(credit):
        if like is not None:
            raise OptionError(f"like: got {like!r}, but a function of yours has no presets")
        return None
    if credit not in methods():
        raise OptionError(f"credit: got {credit!r}, expected one of {', '.join(methods())}")
    card = methods()[credit]
    known = {option.name for option in card.options}
    for name in options:
        if name not in known:
            raise OptionError(
                f"credit_options: got {name!r}, expected options of {credit}: "
                f"{', '.join(sorted(known))}"
            )
    if like is None:
        return "trl" if "trl" in card.presets else None
    if like not in card.presets:
        raise OptionError(
            f"like: got {like!r}, expected a preset of {credit}: "
            f"{', '.join(card.presets) or 'it has none'}"
        )
    return like


def check_aggregation(trainer: Any) -> None:
    """Refuse what TRL would do to several rewards and `grpo` does not."""
    if (
        trainer.multi_objective_aggregation == "normalize_then_sum"
        and trainer.credit_method == "grpo"
        and trainer.credit_like == "trl"
    ):
        raise OptionError(
            "multi_objective_aggregation: got 'normalize_then_sum', which grpo does not do; "
            "expected 'sum_then_normalize', or credit='gdpo', which does"
        )
