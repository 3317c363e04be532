"""The schema of a record, checked field by field. Depends on `lines` and the columns' catalogue."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

from apportion import encode
from apportion.io.lines import Place

Record = dict[str, Any]

_TURN_FIELDS = {"text", "observation", "anchor", "tokens", "log_probs", "reward"}


def check(record: Any, place: Place) -> Record:
    """The record, if it keeps to the schema, else an error that names place and field.

    Values of text columns that are written as JSON (`tool_calls`) become strings.
    """
    if not isinstance(record, dict):
        place.fail("line", f"got {kind(record)}, expected an object")
    for name in ("group", "outcome", "turns"):
        if name not in record:
            place.fail(name, f"missing; got {', '.join(record) or 'no field'}")
    key(record["group"], "group", place)
    if record.get("trajectory") is not None:
        key(record["trajectory"], "trajectory", place)
    reward(record["outcome"], "outcome", place)
    if not isinstance(record["turns"], list):
        place.fail("turns", f"got {kind(record['turns'])}, expected a list")
    for index, turn in enumerate(record["turns"]):
        _turn(turn, f"turns[{index}]", place)
    _columns(record, "", "trajectory", place)
    return record


def key(value: Any, field: str, place: Place) -> None:
    """Refuses what is neither a string nor an integer."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        place.fail(field, f"got {kind(value)}, expected a string or an integer")


def reward(value: Any, field: str, place: Place) -> None:
    """Refuses what is neither null, NaN (both absent) nor a finite number."""
    if value is None:
        return
    if not isinstance(value, int | float):
        place.fail(field, f"got {kind(value)}, expected a number or null")
    try:
        infinite = math.isinf(value)
    except OverflowError:
        infinite = True
    if infinite:
        place.fail(field, "got infinity, expected a finite number or null")


def _turn(turn: Any, field: str, place: Place) -> None:
    if not isinstance(turn, dict):
        place.fail(field, f"got {kind(turn)}, expected an object")
    text, tokens = turn.get("text"), turn.get("tokens")
    if text is None and tokens is None:
        place.fail(field, f"no text and no tokens; got {', '.join(turn) or 'no field'}")
    for name in ("text", "observation"):
        if turn.get(name) is not None and not isinstance(turn[name], str):
            place.fail(f"{field}.{name}", f"got {kind(turn[name])}, expected a string")
    if turn.get("anchor") is not None:
        key(turn["anchor"], f"{field}.anchor", place)
    _numbers(tokens, {int}, "an integer", f"{field}.tokens", place)
    log_probs = turn.get("log_probs")
    _numbers(log_probs, {int, float}, "a finite number", f"{field}.log_probs", place)
    if log_probs is not None and len(log_probs) != len(tokens or ()):
        place.fail(
            f"{field}.log_probs",
            f"got {len(log_probs)} values, expected {len(tokens or ())}, the number of tokens",
        )
    reward(turn.get("reward"), f"{field}.reward", place)
    if not turn.keys() <= _TURN_FIELDS:
        _columns(turn, f"{field}.", "turn", place)


def _numbers(values: Any, types: set[type], expected: str, field: str, place: Place) -> None:
    if values is None:
        return
    if not isinstance(values, list):
        place.fail(field, f"got {kind(values)}, expected a list")
    if set(map(type, values)) <= types and _finite(values):
        return
    for index, value in enumerate(values):
        if type(value) not in types or not _finite([value]):
            place.fail(f"{field}[{index}]", f"got {value!r}, expected {expected}")


def _finite(values: list[Any]) -> bool:
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # an integer beyond float64
        return False


def _columns(holder: Record, prefix: str, level: str, place: Place) -> None:
    """Columns that methods read beside the schema's own fields."""
    for name in holder.keys() & _text_columns(level):
        value = holder[name]
        if isinstance(value, list | dict):
            holder[name] = json.dumps(value, ensure_ascii=False)
        elif value is None:
            holder[name] = ""
        elif not isinstance(value, str):
            place.fail(f"{prefix}{name}", f"got {kind(value)}, expected a string or JSON")


@functools.cache
def _text_columns(level: str) -> frozenset[str]:
    columns = encode.catalogue().items()
    return frozenset(n for n, c in columns if c["kind"] == "Text" and c["level"] == level)


_KINDS = {dict: "an object", list: "a list", bool: "a boolean", str: "a string"}


def kind(value: Any) -> str:
    """The kind of a JSON value in words, with the value where it is short."""
    if value is None:
        return "null"
    name, shown = _KINDS.get(type(value), "a number"), repr(value)
    return name if isinstance(value, dict | list) or len(shown) > 40 else f"{name} {shown}"


@functools.cache
def trajectory_columns() -> frozenset[str]:
    """Columns of one value a trajectory that a record may have beside its own fields."""
    columns = encode.catalogue().items()
    own = {"group_ids", "outcome_rewards"}
    return frozenset(n for n, c in columns if c["level"] == "trajectory" and n not in own)
