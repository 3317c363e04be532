"""What methods there are: their cards, as the core states them. Depends on the core alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from apportion import _core


@dataclass(frozen=True)
class Option:
    """An option of a method."""

    name: str
    default: Any
    expected: str
    doc: str


@dataclass(frozen=True)
class Column:
    """A column that some method reads."""

    name: str
    level: str
    kind: str
    doc: str
    required: bool
    derived_from: str | None


@dataclass(frozen=True)
class MethodCard:
    """Everything there is to know of a method before running it."""

    name: str
    title: str
    doc: str
    granularity: str
    family: str
    paper: str
    certainty: str
    batch_wide: bool
    """Whether, with default options, credit depends on other groups than a
    trajectory's own. Where not, a file is streamed group by group."""
    columns: tuple[Column, ...]
    options: tuple[Option, ...]
    presets: Mapping[str, Mapping[str, Any]]


@functools.cache
def methods() -> Mapping[str, MethodCard]:
    """Every method by name, in the order of the core's list."""
    cards = {}
    for raw in _core.methods():
        own = {**raw}
        own["columns"] = tuple(Column(**column) for column in raw["columns"])
        own["options"] = tuple(Option(**option) for option in raw["options"])
        own["presets"] = MappingProxyType(dict(raw["presets"]))
        cards[raw["name"]] = MethodCard(**own)
    return MappingProxyType(cards)


def columns() -> Mapping[str, Column]:
    """Every column that some method reads, by name."""
    found = {c.name: c for card in methods().values() for c in card.columns}
    return MappingProxyType(dict(sorted(found.items())))
