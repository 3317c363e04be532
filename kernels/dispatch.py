"""Where a kernel runs: Triton on a GPU, plain torch elsewhere. Torch alone.

With `TRITON_INTERPRET=1` in the environment the Triton kernels also take tensors of the
processor, in Triton's interpreter: slow, for tests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from typing import Any

import torch

OLDEST_TRITON = (3, 4)
"""That compiles the kernels: with an older one plain torch takes their place."""

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the Triton kernels read; float64 goes to plain torch, on every device."""

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Read once, as Triton does when a kernel is defined."""


def runs_on_triton(tensor: Any) -> bool:
    """Whether the Triton kernels take this tensor."""
    return tensor.dtype in TYPES and (tensor.is_cuda or INTERPRETED) and _can_compile()


def on_device_of(tensor: Any) -> Any:
    """A context in which kernels are launched where the tensor is, as Triton does not see to it."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


@torch.compiler.assume_constant_result  # or what is cached is traced, with a warning
def _can_compile() -> bool:
    return _has_triton()


@functools.cache
def _has_triton() -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2]) >= OLDEST_TRITON
