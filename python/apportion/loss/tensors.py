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


def can_be_read(device: Any) -> bool:
    """Whether values may be looked at: not on a GPU, which one would wait for, nor in
    compiled code, which has none yet."""
    return device.type == "cpu" and not torch.compiler.is_compiling()
