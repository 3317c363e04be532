"""What a policy loss is made of, what it returns, and the list of all of them. Depends on `batch`.

A loss is registered with `@loss(name, ...)`: its keyword-only parameters are its
options, its docstring holds formula, source and degenerate cases, and the decorator's
keywords are its defaults for what `policy_loss` does around it (level of the ratio,
bounds of the log ratio, aggregation).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apportion.kernels.reference.batch import Tensor, Tokens


@dataclass(frozen=True)
class Terms:
    """What a loss is made of."""

    tokens: Tokens
    log_ratio: Tensor
    """`(N,)`, at the level asked for, within its bounds."""
    ratio: Tensor
    """`exp(log_ratio)`."""

    @property
    def advantages(self) -> Tensor:
        """`(N,)`."""
        return self.tokens.advantages


@dataclass(frozen=True)
class TokenLosses:
    """Losses of tokens, `(N,)`, and indicators whose means over the mask are metrics."""

    values: Tensor
    indicators: Mapping[str, Tensor] = field(default_factory=dict)
    by_row: bool = False
    """Metrics are means over rows: the loss has one value a row."""


Formula = Callable[..., TokenLosses]


@dataclass(frozen=True)
class Loss:
    """A registered loss."""

    name: str
    formula: Formula
    options: Mapping[str, Any]
    """The loss's own options, with their defaults."""
    around: Mapping[str, Any]
    """Defaults for the options of `policy_loss` itself."""
    weighs_itself: bool
    """The rollout weights enter the formula, rather than multiply its result."""
    reads: str
    """Whose numbers the loss of a token depends on, apart from the level of the ratio:
    its `"token"`'s, its `"sequence"`'s or the `"batch"`'s."""

    @property
    def doc(self) -> str:
        """Formula, source and degenerate cases."""
        return inspect.getdoc(self.formula) or ""


LOSSES: dict[str, Loss] = {}


def loss(
    name: str, *, weighs_itself: bool = False, reads: str = "token", **around: Any
) -> Callable[[Formula], Formula]:
    """Register a loss under `name`."""

    def register(formula: Formula) -> Formula:
        parameters = inspect.signature(formula).parameters.values()
        options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        LOSSES[name] = Loss(name, formula, options, around, weighs_itself, reads)
        return formula

    return register
