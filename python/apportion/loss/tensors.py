"""What a caller gives, as tensors on the device of the others. Needs torch; part of `loss`."""

from __future__ import annotations

from typing import Any

import numpy as np

from apportion.errors import DtypeError, ExtraMissingError, InputError

try:
    import torch
except ImportError as error:
    raise ExtraMissingError(
        "apportion's loss and log-probabilities need torch: pip install 'apportion[torch]'"
    ) from error

Tensor = Any


def as_tensor(name: str, value: Any, device: Any) -> Tensor:
    """A dense tensor of numbers on `device`, from a tensor or anything NumPy can read."""
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.from_numpy(np.ascontiguousarray(value)).to(device)
        except (TypeError, ValueError) as error:
            what = f"{type(value).__name__}, expected a tensor or an array of numbers"
            raise DtypeError(f"{name}: got {what}") from error
    if value.layout != torch.strided:
        raise InputError(f"{name}: got layout {value.layout}, expected a dense tensor")
    if value.device != device:
        raise InputError(f"{name}: got device {value.device}, expected {device}")
    return value


def check_floats(name: str, value: Any) -> None:
    """Refuse what is not a tensor of floats: what a loss is differentiated by."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise DtypeError(f"{name}: got {got}, expected a torch tensor of floats")


def as_mask(name: str, value: Any, shape: Any, device: Any, like: str) -> Tensor:
    """A mask of a shape as booleans; what has that shape is `like`."""
    mask = as_tensor(name, value, device)
    if tuple(mask.shape) != tuple(shape):
        got, expected = tuple(mask.shape), tuple(shape)
        raise InputError(f"{name}: got shape {got}, expected {expected} as {like}")
    if mask.dtype == torch.bool:
        return mask
    # Where values are not read, any but 0 counts as 1.
    if can_be_read(device):
        refuse(name, mask, (mask != 0) & (mask != 1), "0 or 1")
    return mask != 0


def refuse(name: str, values: Tensor, wrong: Tensor, expected: str) -> None:
    """An error that names the first of the values that are wrong, if there is one."""
    if bool(wrong.any()):
        at = tuple(wrong.nonzero()[0].tolist())
        index = ", ".join(map(str, at))
        raise InputError(f"{name}[{index}]: got {values[at].item()}, expected {expected}")


def can_be_read(device: Any) -> bool:
    """Whether values may be looked at: not on a GPU, which one would wait for, nor in
    compiled code, which has none yet."""
    return device.type == "cpu" and not torch.compiler.is_compiling()
