"""Continuations in the making, and what ends them. Depends on NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Prefix = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a state, and where in them its steps begin."""


@dataclass(eq=False)
class Row:
    """One continuation in the making."""

    prefix: Prefix
    stops: tuple[str, ...]
    room: int
    draws: Any
    first: int | None = None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    done: bool = False


def draws(seed: int, count: int) -> Any:
    """Uniform numbers of one continuation, a number a token."""
    return np.random.Generator(np.random.Philox(seed)).random(count)


def ends_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    config = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    found = [*ids] if isinstance(ids, list | tuple) else [ids]
    return frozenset(i for i in (*found, tokenizer.eos_token_id) if i is not None)
