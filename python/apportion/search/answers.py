"""Answers to requests, as the core reads them. Depends on `arrays`, `errors` and NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from apportion.arrays import Array, int_vector, integers, to_numpy, vector
from apportion.errors import InputError

CHILD_COLUMNS = ("priors", "masked", "child_values", "child_terminal", "keys")
WHOLE = (int, np.integer)
FLAGS = ("masked", "child_terminal", "terminal")


def encode(count: int, children: Any, given: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
    """Numbers of children, and the columns that are there, flat.

    The number of children is that of whichever column of children is given; all of them
    must agree. `given` are the arguments of `Search.expand` by name.
    """
    columns: dict[str, Any] = {}
    for name in ("values", "rewards"):
        if given[name] is not None:
            columns[name] = vector(name, given[name])
    if given["terminal"] is not None:
        columns["terminal"] = flags("terminal", given["terminal"])
    counts = None if children is None else _counts(count, children)

    def agreed(name: str, got: Array) -> Array:
        if len(got) != count:
            raise InputError(f"{name}: got {len(got)} rows, expected {count}, one for each leaf")
        return _agreed(name, counts, got)

    for name in CHILD_COLUMNS:
        if given[name] is not None:
            got, columns[name] = rows(name, given[name])
            counts = agreed(name, got)
    if given["tokens"] is not None:
        got, *columns["tokens"] = token_rows("tokens", given["tokens"])
        counts = agreed("tokens", got)
        columns["tokens"] = tuple(columns["tokens"])
    elif given["token_log_probs"] is not None:
        raise InputError("token_log_probs: got log-probs without `tokens`")
    for name in ("token_log_probs", "child_scores"):
        if given[name] is not None:
            got, *columns[name] = number_rows(name, given[name])
            counts = agreed(name, got)
            columns[name] = tuple(columns[name])
    if given["rollouts"] is not None:
        columns["rollouts"], columns["rollout_rewards"] = rows("rollouts", given["rollouts"])
        if given["rollout_tokens"] is not None:
            got, flat, lengths = token_rows("rollout_tokens", given["rollout_tokens"])
            _agreed("rollout_tokens", columns["rollouts"], got)
            columns["rollout_tokens"] = (flat, lengths)
            if given["rollout_log_probs"] is not None:
                columns["rollout_log_probs"] = _log_probs(given["rollout_log_probs"], lengths)
        elif given["rollout_log_probs"] is not None:
            raise InputError("rollout_log_probs: got log-probs without `rollout_tokens`")
    elif given["rollout_tokens"] is not None:
        raise InputError("rollout_tokens: got tokens of rollouts without `rollouts`, their rewards")
    return np.zeros(count, dtype=np.int64) if counts is None else counts, columns


def positive(name: str, value: Any) -> int:
    """A count, as it was given."""
    whole = isinstance(value, WHOLE) and not isinstance(value, bool)
    if not whole or not 1 <= value < 2**63:
        raise InputError(f"{name}: got {value!r}, expected an integer from 1 to 2**63 - 1")
    return int(value)


def flags(name: str, values: Any) -> Array:
    """One truth value a row."""
    array = to_numpy(name, values)
    if array.dtype != np.bool_ and array.size and not np.isin(array, (0, 1)).all():
        raise InputError(f"{name}: expected booleans")
    if array.ndim != 1:
        raise InputError(f"{name}: got shape {array.shape}, expected one dimension")
    return np.ascontiguousarray(array, dtype=np.bool_)


def rows(name: str, values: Any) -> tuple[Array, Array]:
    """Lengths of rows and the rows one after the other, of a table or a list of rows."""
    if isinstance(values, Sequence):
        for i, row in enumerate(values):
            _length(f"{name}[{i}]", row)
        parts = [_column(f"{name}[{i}]", name, row) for i, row in enumerate(values)]
        flat = np.concatenate(parts) if parts else _column(name, name, [])
        return np.array([len(row) for row in parts], dtype=np.int64), flat
    table = to_numpy(name, values)
    if table.ndim != 2:
        raise InputError(f"{name}: got shape {table.shape}, expected (leaves, children)")
    lengths = np.empty(len(table), dtype=np.int64)
    lengths.fill(table.shape[1])  # half the time of `np.full`, in a call for a few leaves
    return lengths, _column(name, name, table.reshape(-1))


def _column(where: str, name: str, values: Any) -> Array:
    if name in FLAGS:
        return flags(where, values)
    return _keys(where, values) if name == "keys" else vector(where, values)


def _keys(where: str, values: Any) -> Array:
    """Integers of which the 64 bits are kept, with a sign or without."""
    if isinstance(values, Sequence) and all(type(key) is int for key in values):
        # NumPy would take large and small ones together for floats.
        for i, key in enumerate(values):
            if not -(2**63) <= key < 2**64:
                raise InputError(f"{where}[{i}]: got {key}, expected an integer of 64 bits")
        values = np.array([key % 2**64 for key in values], dtype=np.uint64)
    array = to_numpy(where, values)
    return array.view(np.int64) if array.dtype == np.uint64 else integers(where, array)


def token_rows(name: str, values: Any) -> tuple[Array, Array, Array]:
    """For each leaf how many spans it has; all tokens, and each span's length."""
    counts = _span_counts(name, values)
    spans = [
        int_vector(f"{name}[{i}][{j}]", span)
        for i, leaf in enumerate(values)
        for j, span in enumerate(leaf)
    ]
    flat = np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)
    return counts, flat, np.array([len(span) for span in spans], dtype=np.int64)


def _span_counts(name: str, values: Any) -> Array:
    """How many rows each leaf has; rows may be any arrays, leaves any sequences of them."""
    _length(name, values)
    return np.array([_length(f"{name}[{i}]", leaf) for i, leaf in enumerate(values)], np.int64)


def _length(where: str, values: Any) -> int:
    try:
        return len(values)
    except TypeError as error:
        raise InputError(f"{where}: got {values!r:.60}, expected a list") from error


def number_rows(name: str, values: Any) -> tuple[Array, Array, Array]:
    """As `token_rows`, of numbers."""
    counts = _span_counts(name, values)
    spans = [
        vector(f"{name}[{i}][{j}]", span)
        for i, leaf in enumerate(values)
        for j, span in enumerate(leaf)
    ]
    flat = np.concatenate(spans) if spans else np.zeros(0)
    return counts, flat, np.array([len(span) for span in spans], dtype=np.int64)


def _log_probs(values: Any, lengths: Array) -> Array:
    """Log-probs of all tokens of rollouts, one after the other."""
    _, flat, got = number_rows("rollout_log_probs", values)
    _agreed("rollout_log_probs", lengths, got)
    return flat


def _counts(count: int, children: Any) -> Array:
    counts = integers("children", children)
    counts = np.repeat(counts, count) if np.ndim(children) == 0 else counts
    if counts.ndim != 1:
        raise InputError(f"children: got shape {counts.shape}, expected one dimension")
    below = np.flatnonzero(counts < 0)
    if below.size:
        i = int(below[0])
        raise InputError(f"children[{i}]: got {counts[i]}, expected an integer of at least 0")
    return counts


def _agreed(name: str, counts: Array | None, got: Array) -> Array:
    """Numbers of children that two columns agree on."""
    if counts is None or counts is got:
        return got
    if len(counts) != len(got):
        raise InputError(f"{name}: got {len(got)} rows, expected {len(counts)}")
    if not np.array_equal(counts, got):
        i = int(np.flatnonzero(counts != got)[0])
        raise InputError(f"{name}[{i}]: got {got[i]} entries, expected {counts[i]}")
    return got
