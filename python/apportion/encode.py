"""Columns: which there are, and how each kind is handed to the core. NumPy only.

The catalogue comes from the core's methods, so that a new method's columns are
known here without an edit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from apportion import _core
from apportion.arrays import Array, floats, is_tensor, to_numpy
from apportion.errors import DtypeError, InputError

Encoded = Any  # an array, (array, width), list[str], list[bytes] or (list[str], offsets)


@functools.cache
def catalogue() -> dict[str, dict[str, Any]]:
    """Every column that some method reads, by name."""
    return {column["name"]: column for card in _core.methods() for column in card["columns"]}


def spec(name: str) -> dict[str, Any]:
    """A column's level, kind and meaning."""
    try:
        return catalogue()[name]
    except KeyError:
        import difflib  # only for this message

        known = sorted(catalogue())
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        message = f"unknown column {name!r}{hint}, expected one of {', '.join(known)}"
        raise InputError(message) from None


def level(name: str) -> str:
    """`"trajectory"`, `"turn"` or `"token"`."""
    return str(spec(name)["level"])


def encode(name: str, values: Any) -> Encoded:
    """Flat `values` of a column in the form in which the core reads its kind."""
    kind = spec(name)["kind"]
    if kind in ("Float", "Reward", "Flag"):
        return _numbers(name, values)
    if kind == "RewardMatrix":
        return _matrix(name, values)
    if kind == "TextList":
        return _text_lists(name, values)
    if kind == "Text":
        return _texts(name, values)
    return keys(name, values)


def flatten_turns(name: str, values: Any, counts: Array) -> list[Any] | Array:
    """One value a turn from values nested by trajectory, counted against the turns found."""
    if not is_tensor(values) and not hasattr(values, "shape"):
        values = as_list(name, values)
    if getattr(values, "ndim", 1) == 0:
        raise InputError(f"{name}: got a single value, expected one for each turn")
    if not is_tensor(values) and _is_nested(name, values) and len(values) != len(counts):
        # Ids may be sequences themselves, so that a flat list of them looks nested.
        if spec(name)["kind"] not in ("Key", "TextList"):
            raise InputError(
                f"{name}: got {len(values)} rows, expected {len(counts)}, "
                "the number of trajectories"
            )
    elif not is_tensor(values) and _is_nested(name, values):
        for index, (row, count) in enumerate(zip(values, counts, strict=True)):
            if len(row) != count:
                raise InputError(
                    f"{name}[{index}]: got {len(row)} values, expected {count}, "
                    "the number of turns of that trajectory"
                )
        return [value for row in values for value in row]
    array = to_numpy(name, values) if is_tensor(values) else values
    if getattr(array, "ndim", 1) == 2:
        return flatten_turns(name, list(array), counts)
    return array


def _is_nested(name: str, values: Sequence[Any]) -> bool:
    """Whether `values` holds one sequence of turns a trajectory."""
    deep = spec(name)["kind"] == "TextList"
    for row in values:
        if isinstance(row, str | bytes) or not hasattr(row, "__len__"):
            return False
        if deep and len(row) and (isinstance(row[0], str) or not hasattr(row[0], "__len__")):
            return False
        if isinstance(row, np.ndarray) and row.ndim == 0:
            return False
    return True


def _numbers(name: str, values: Any) -> Array:
    """Numbers one after the other; `(N, 1)` counts as `(N,)`, a padded array as its rows."""
    array = floats(name, values)
    if array.ndim == 1 or level(name) == "token" or array.size == len(array):
        return array.reshape(-1)
    raise InputError(f"{name}: got shape {array.shape}, expected one value for each {level(name)}")


def _matrix(name: str, values: Any) -> tuple[Array, int]:
    array = floats(name, values)
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name}: got shape {array.shape}, expected (rows, functions)")
    return array.reshape(-1), int(array.shape[1])


def as_list(name: str, values: Any) -> list[Any]:
    """The items of any iterable with an order but a string, whose letters nobody means."""
    if isinstance(values, np.ndarray) and values.ndim:
        return list(values.tolist())
    unordered = isinstance(values, Mapping | Set)
    if unordered or isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DtypeError(f"{name}: got {_shown(values)}, expected a list or an array")
    if getattr(values, "ndim", 1) == 0:
        raise DtypeError(f"{name}: got a single value, expected a list or an array")
    return list(values)


def _shown(value: object) -> str:
    """A value in a message: long ones are cut."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _texts(name: str, values: Any) -> list[str]:
    texts = as_list(name, values)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise DtypeError(f"{name}[{index}]: got {_shown(text)}, expected a string")
    return texts


def _text_lists(name: str, values: Any) -> tuple[list[str], list[int]]:
    items: list[str] = []
    offsets = [0]
    for index, row in enumerate(as_list(name, values)):
        if isinstance(row, str) or not hasattr(row, "__iter__"):
            raise DtypeError(f"{name}[{index}]: got {_shown(row)}, expected a list of strings")
        items.extend(_texts(f"{name}[{index}]", row))
        offsets.append(len(items))
    return items, offsets


def keys(name: str, values: Any) -> Encoded:
    """Ids of any kind: int64 as an array, strings as they are, all else as tagged bytes."""
    if is_tensor(values) or isinstance(values, np.ndarray):
        array = to_numpy(name, values) if is_tensor(values) else values
        if array.ndim == 1 and array.dtype.kind in "iub" and not _beyond_int64(array):
            return np.require(array, np.int64, ["C", "ALIGNED"])
        values = list(array) if array.ndim > 1 else array.tolist()
    values = as_list(name, values)
    if all(type(value) is str for value in values):
        return values
    if all(type(value) is int and -(2**63) <= value < 2**63 for value in values):
        return np.array(values, dtype=np.int64)
    return [_id_bytes(name, index, value) for index, value in enumerate(values)]


def _id_bytes(name: str, index: int, value: Any) -> bytes:
    try:
        return _tagged(name, index, value)
    except RecursionError:
        raise DtypeError(
            f"{name}[{index}]: got an id that is nested too deeply, expected a shallow one"
        ) from None


def _beyond_int64(array: Array) -> bool:
    return bool(array.dtype == np.uint64 and array.size and array.max() >= 2**63)


def _tagged(name: str, index: int, value: Any) -> bytes:
    """An id as bytes; ids of different types never collide."""
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, bool | int | np.integer | np.bool_):
        return b"i" + str(int(value)).encode()
    if isinstance(value, tuple | list):
        parts = [_tagged(name, index, part) for part in value]
        return b"t" + b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    if is_tensor(value):
        value = to_numpy(name, value)
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return _tagged(name, index, value.tolist())
        header = f"a{value.dtype.str}{value.shape}".encode()
        return header + np.ascontiguousarray(value).tobytes()
    if hasattr(value, "hex") and hasattr(value, "bytes"):  # uuid.UUID
        return b"u" + bytes(value.bytes)
    raise DtypeError(
        f"{name}[{index}]: got {_shown(value)}, expected a string, bytes, an integer, "
        "an array, or a tuple of these"
    )
