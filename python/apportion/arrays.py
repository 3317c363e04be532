"""Whatever a trainer holds, as NumPy arrays, and back in kind. NumPy only.

torch is never imported here: a tensor is recognised by its module's name, and
the torch that made it is already in `sys.modules`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from apportion.errors import DtypeError, InputError

Array = npt.NDArray[Any]
MAX_VALUES, MAX_ROWS = 2**40, 2**28  # as the core's limits: beyond them sizes are a mistake
_FLOAT64 = np.dtype(np.float64)


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


@dataclass(frozen=True)
class Origin:
    """In what form a batch came in, so that results leave in the same one."""

    shape: tuple[int, ...] | None = None
    device: Any = None  # a torch device; None for NumPy

    def restore(self, flat: Array) -> Any:
        """`flat` in the shape that came in, as a tensor on its device where it was one."""
        shaped = flat if self.shape is None else flat.reshape(self.shape)
        if self.device is None:
            return shaped
        return sys.modules["torch"].from_numpy(shaped).to(self.device)


def origin_of(value: Any) -> Origin:
    """Shape and kind of an array or tensor."""
    return Origin(tuple(value.shape), value.device if is_tensor(value) else None)


def device_of(*values: Any) -> Any:
    """The device of the first tensor, `None` where there is none."""
    return next((value.device for value in values if is_tensor(value)), None)


def to_numpy(name: str, value: Any) -> Array:
    """`value` as an array in native byte order, without a copy where that is possible.

    Half precision is widened to float32. `None` in a list becomes NaN.
    """
    if _is_plain(value):
        return value  # type: ignore[no-any-return]
    if is_tensor(value):
        return _of_tensor(name, value.detach())
    if isinstance(value, np.ma.MaskedArray):
        raise DtypeError(f"{name}: got a masked array, expected NaN where a value is absent")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name}: got rows of different lengths, expected a rectangle") from error
    except TypeError as error:
        got = type(value).__name__
        raise DtypeError(f"{name}: got {got}, expected numbers ({error})") from error
    if array.size > MAX_VALUES:
        raise InputError(f"{name}: got shape {array.shape}, expected at most {MAX_VALUES} values")
    if array.dtype.kind in "US" and not hasattr(value, "dtype"):
        array = np.asarray(value, dtype=object)  # one string among numbers: find which
    if array.dtype == object:
        array = _numbers_of_objects(name, array)
    if not (array.dtype.isnative and array.flags.aligned):
        array = array.astype(array.dtype.newbyteorder("="))
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _is_plain(value: Any) -> bool:
    """Whether `value` is what most calls give, doubles in NumPy: to look further at each of a
    search's arrays takes as long as dozens of its leaves."""
    return (
        type(value) is np.ndarray
        and value.dtype is _FLOAT64
        and value.flags.aligned
        and value.size <= MAX_VALUES
    )


def _of_tensor(name: str, tensor: Any) -> Array:
    if tensor.is_sparse or getattr(tensor, "is_nested", False):
        raise DtypeError(f"{name}: got a sparse or nested tensor, expected a dense one")
    if str(tensor.dtype) in ("torch.bfloat16", "torch.float16"):
        tensor = tensor.float()
    try:
        return tensor.cpu().numpy()  # type: ignore[no-any-return]
    except (NotImplementedError, RuntimeError, TypeError) as error:
        got = f"a tensor of {tensor.dtype} on {tensor.device}"
        raise DtypeError(f"{name}: got {got}, expected one that NumPy can hold") from error


def _numbers_of_objects(name: str, array: Array) -> Array:
    flat = array.reshape(-1)
    values = np.empty(len(flat), dtype=np.float64)
    for index, item in enumerate(flat):
        if item is not None and not isinstance(item, int | float | np.number):
            raise DtypeError(f"{name}[{index}]: got {item!r}, expected a number or None")
        try:
            values[index] = np.nan if item is None else item
        except (OverflowError, TypeError) as error:  # beyond float64, or complex
            got = str(item) if len(str(item)) < 40 else f"a number of {len(str(item))} digits"
            raise DtypeError(f"{name}[{index}]: got {got}, expected a real number") from error
    return values.reshape(array.shape)


def floats(name: str, value: Any) -> Array:
    """A contiguous float32 or float64 array; integers and booleans are widened to float64."""
    array = to_numpy(name, value)
    if array.dtype is _FLOAT64 and array.ndim and array.flags.c_contiguous:
        return array
    if array.dtype.kind not in "fiub":
        raise DtypeError(f"{name}: got an array of {array.dtype}, expected numbers")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    return np.ascontiguousarray(array) if array.ndim else array.reshape(1)


def integers(name: str, value: Any) -> Array:
    """A contiguous 1-D or 2-D int64 array."""
    array = to_numpy(name, value)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{name}: got an array of {array.dtype}, expected integers")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and int(array.max()) >= 2**63:
        raise InputError(f"{name}: got {int(array.max())}, expected integers below 2**63")
    return np.ascontiguousarray(array, dtype=np.int64)


def vector(name: str, values: Any) -> Array:
    """One dimension of float64."""
    array = floats(name, values)
    if array.dtype is not _FLOAT64:
        array = array.astype(np.float64)
    if array.ndim != 1:
        raise InputError(f"{name}: got shape {array.shape}, expected one dimension")
    return array


def int_vector(name: str, values: Any) -> Array:
    """One dimension of int64."""
    array = integers(name, values)
    if array.ndim != 1:
        raise InputError(f"{name}: got shape {array.shape}, expected one dimension")
    return array


def index(name: str, value: Any, count: int) -> int:
    """A number from 0 to `count - 1`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 0 <= value < count:
        raise InputError(f"{name}: got {value!r}, expected an integer from 0 to {count - 1}")
    return int(value)


_MASK_TYPES = {np.dtype(t) for t in (np.uint8, np.int32, np.int64, np.float32, np.float64)}


def mask_array(name: str, value: Any) -> Array:
    """A contiguous mask in a type that the core reads in place."""
    array = to_numpy(name, value)
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    elif array.dtype not in _MASK_TYPES:
        if array.dtype.kind not in "iu":
            raise DtypeError(f"{name}: got an array of {array.dtype}, expected booleans or 0 and 1")
        array = array.astype(np.int64)
    return np.ascontiguousarray(array) if array.ndim else array
