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

The estimators are in `verl_functions`. Written against verl 0.9. Imports verl, and is
imported by nothing but the plugin.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from apportion.errors import ExtraMissingError
from apportion.integrations.verl_functions import REPLACEMENTS, Pair, both, option, run, same
from apportion.methods import methods

logger = logging.getLogger(__name__)

CORE = "verl.trainer.ppo.core_algos"
PREFIX = "apportion_"


def _core_algos() -> Any:
    try:
        return importlib.import_module(CORE)
    except ImportError as error:
        raise ExtraMissingError(
            f"apportion.integrations.verl needs verl, which cannot be imported ({error}); "
            "install it with: pip install verl"
        ) from error


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
        options = dict(option(config, "apportion", None) or {})
        like = options.pop("like", None)
        result = run(method, token_level_rewards, response_mask, index, like, **columns, **options)
        return both(result) if "returns" in result.values else same(result)

    estimator.__name__ = PREFIX + method
    estimator.__doc__ = methods()[method].title
    return estimator
