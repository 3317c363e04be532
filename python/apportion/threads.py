"""How many threads the core may use. Depends on the standard library alone.

In order: the innermost `num_threads` block, `set_num_threads`, the environment
variable `APPORTION_NUM_THREADS`, then `RAYON_NUM_THREADS`, else the machine's
cores but at most 8. Inside a torch DataLoader worker or a Ray worker the
default is 1, because such workers are already one a core. Results are the same
bits for any number.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar

from apportion.errors import InputError

_chosen: ContextVar[int | None] = ContextVar("apportion_num_threads", default=None)
_of_process: int | None = None
MAX_DEFAULT = 8


def _checked(value: object, source: str) -> int:
    try:
        number = int(value) if isinstance(value, str) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = 0
    if isinstance(value, bool) or number < 1 or number > 4096:
        raise InputError(f"{source}: got {value!r}, expected an integer from 1 to 4096")
    return number


def get_num_threads() -> int:
    """Number of threads that the next call may use."""
    chosen = _chosen.get() or _of_process
    if chosen is not None:
        return chosen
    for name in ("APPORTION_NUM_THREADS", "RAYON_NUM_THREADS"):
        text = os.environ.get(name)
        if text:
            return _checked(text, name)
    if _in_worker():
        return 1
    return min(_cores(), MAX_DEFAULT)


def set_num_threads(count: int) -> None:
    """Set the number of threads for this process; a `num_threads` block goes before it."""
    global _of_process
    _of_process = _checked(count, "count")


@contextlib.contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Use `count` threads inside the block, in this Python thread or task alone."""
    token = _chosen.set(_checked(count, "count"))
    try:
        yield
    finally:
        _chosen.reset(token)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _in_worker() -> bool:
    """Whether this process is one of many that share the machine's cores."""
    multiprocessing = sys.modules.get("multiprocessing")  # a worker has it loaded
    if multiprocessing is not None and multiprocessing.current_process().daemon:
        return True
    ray = sys.modules.get("ray")
    if ray is not None and "RAY_JOB_ID" in os.environ:
        return True
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None
