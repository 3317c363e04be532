"""Trajectories as dictionaries, the JSONL schema, to columns.

One dictionary a trajectory: `group`, `outcome` (`None` is absent), `turns`, and
optionally `trajectory` and `meta`. A turn has `text` or `tokens`, and may have
`observation`, `anchor` (default: the observation), `log_probs`, `reward`. Other
keys that are columns of some method, at either level, are read as such. Tokens
that a turn does not have count as none; its credit per turn is still computed.
Depends on `layout` and `encode`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from apportion import encode
from apportion.arrays import floats
from apportion.errors import DtypeError, InputError
from apportion.layout import Layout

_RESERVED = {"text", "observation", "tokens", "log_probs", "reward", "anchor"}


def columns_of_records(
    records: Sequence[Mapping[str, Any]],
    where: Callable[[int], str],
) -> tuple[Layout, dict[str, Any], list[Mapping[str, Any]]]:
    """Layout, columns and turn texts of records, for `Rollouts._build`.

    `where` names a record in error messages.
    """
    turns_of = [_turns(record, where(index)) for index, record in enumerate(records)]
    flat = [turn for turns in turns_of for turn in turns]
    lengths = np.array([len(turn.get("tokens") or ()) for turn in flat], dtype=np.int64)
    ends = np.cumsum(lengths)
    turn_offsets = np.cumsum([0, *map(len, turns_of)], dtype=np.int64)
    token_offsets = np.concatenate([[0], ends])[turn_offsets].astype(np.int64)
    spans = np.stack([ends - lengths, ends], axis=1).reshape(-1)
    layout = Layout(rows=len(records), token_offsets=token_offsets, turns=(turn_offsets, spans))
    given: dict[str, Any] = {
        "group_ids": [_field(r, "group", where(i)) for i, r in enumerate(records)],
        "outcome_rewards": [r.get("outcome") for r in records],
    }
    given.update(_token_columns(flat, lengths))
    given.update(_turn_columns(turns_of))
    for name in sorted({key for r in records for key in r} & set(encode.catalogue())):
        given[name] = [_field(r, name, where(i)) for i, r in enumerate(records)]
    return layout, given, flat


def _field(record: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in record:
        raise InputError(f"{where}: no field {name!r}; got {', '.join(map(str, record))}")
    return record[name]


def _turns(record: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: got {type(record).__name__}, expected an object")
    turns = _field(record, "turns", where)
    if not isinstance(turns, list):
        raise InputError(f"{where}.turns: got {type(turns).__name__}, expected a list")
    for k, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or not ("text" in turn or "tokens" in turn):
            raise InputError(f"{where}.turns[{k}]: expected an object with text or tokens")
        tokens, log_probs = turn.get("tokens"), turn.get("log_probs")
        for name, given in (("tokens", tokens), ("log_probs", log_probs)):
            if given is not None and (isinstance(given, str) or not hasattr(given, "__len__")):
                raise DtypeError(f"{where}.turns[{k}].{name}: got {given!r:.80}, expected a list")
        if log_probs is not None and len(log_probs) != len(tokens or ()):
            raise InputError(
                f"{where}.turns[{k}].log_probs: got {len(log_probs)} values, "
                f"expected {len(tokens or ())}, the number of tokens"
            )
        if log_probs is not None:
            floats(f"{where}.turns[{k}].log_probs", log_probs)
    return turns


def _token_columns(flat: list[Mapping[str, Any]], lengths: Any) -> dict[str, Any]:
    """Log-probabilities, if every turn that has tokens has them."""
    having = [turn for turn, length in zip(flat, lengths, strict=True) if length]
    if not having or "old_log_probs" not in encode.catalogue():
        return {}
    if any(turn.get("log_probs") is None for turn in having):
        return {}
    return {"old_log_probs": np.concatenate([np.asarray(t["log_probs"], float) for t in having])}


def _turn_columns(turns_of: list[list[Mapping[str, Any]]]) -> dict[str, Any]:
    """Turn columns that occur, nested by trajectory."""
    flat = [turn for turns in turns_of for turn in turns]
    found: dict[str, Any] = {}
    names = {key for turn in flat for key in turn}
    if "reward" in names:
        found["turn_rewards"] = [[turn.get("reward") for turn in turns] for turns in turns_of]
    if {"anchor", "observation"} & names and "anchors" in encode.catalogue():
        found["anchors"] = [[_anchor(turn) for turn in turns] for turns in turns_of]
    if "text" in names and "texts" in encode.catalogue():
        found["texts"] = [[_written(turn) for turn in turns] for turns in turns_of]
    for name in sorted((names - _RESERVED) & set(encode.catalogue())):
        found[name] = [[_value(turn, name) for turn in turns] for turns in turns_of]
    return found


def _written(turn: Mapping[str, Any]) -> str:
    """A turn's text; halves of surrogate pairs, which are no characters, become `?`."""
    text = turn.get("text")
    if not isinstance(text, str) or text.isascii():
        return text or ""
    return text.encode("utf-8", "replace").decode()


def _value(turn: Mapping[str, Any], name: str) -> Any:
    """A column's value of one turn; a text that is not there is empty."""
    value = turn.get(name)
    empty: dict[str, Any] = {"Text": "", "TextList": []}
    return empty.get(encode.spec(name)["kind"]) if value is None else value


def _anchor(turn: Mapping[str, Any]) -> Any:
    anchor = turn.get("anchor")
    return (turn.get("observation") or "") if anchor is None else anchor
