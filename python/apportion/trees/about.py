"""What a file of trees says of the whole, beside the columns. Depends on `trees`."""

from __future__ import annotations

from typing import Any

from apportion.errors import ApportionError, FileFormatError
from apportion.trees.trees import Trees

MARK = "apportion-trees"
VERSION = 2
"""Version 1 had no tokens and no rollouts; it is read as well."""

Json = Any


def described(trees: Trees) -> dict[str, Json]:
    """What a file says of the whole, beside the columns."""
    return {
        "format": MARK,
        "version": VERSION,
        "names": None if trees.names is None else list(trees.names),
        "meta": dict(trees.meta),
        "timeline": {name: list(map(float, of)) for name, of in trees.timeline.items()},
    }


def restored(place: str, said: Json, **columns: Any) -> Trees:
    """Trees from columns and what the file says of the whole."""
    if not isinstance(said, dict) or said.get("format") != MARK:
        raise FileFormatError(f"{place}: is no file of trees: it does not say {MARK!r}")
    if said.get("version") not in (1, VERSION):
        got = said.get("version")
        raise FileFormatError(f"{place}: version {got!r} of the format, expected 1 or {VERSION}")
    names = said.get("names")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise FileFormatError(f"{place}: names: expected a list of texts or null")
    about: dict[str, Any] = {name: said.get(name) for name in ("meta", "timeline")}
    for name, value in about.items():
        if not isinstance(value, dict):
            got = type(value).__name__
            raise FileFormatError(f"{place}: {name}: got {got}, expected an object")
    try:
        return Trees(**columns, names=names, **about)
    except ApportionError as error:
        raise FileFormatError(f"{place}: {error}") from error
