"""Progress on stderr: rich where it is installed, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

PERIOD = 2.0
"""Seconds between two lines without rich."""

Tick = Callable[[float, float], None]


class Progress:
    """Shows how far the stages of a run are, in a `with` block.

    `show`: whether to; `None`: if stderr is a terminal.
    """

    def __init__(self, show: bool | None) -> None:
        """Shows nothing until the first tick."""
        self._show = sys.stderr.isatty() if show is None else show
        self._bars: Any = None

    def __enter__(self) -> Progress:
        """Starts rich's display where there is one."""
        if self._show and sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import Progress as Bars
            except ImportError:
                return self
            self._bars = Bars(console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the display away."""
        self.stop()

    def stop(self) -> None:
        """Take the display away, so that text can be printed."""
        if self._bars is not None:
            self._bars.stop()

    def stage(self, name: str) -> Tick:
        """A function `tick(done, total)` that shows the progress of a stage."""
        if not self._show:
            return lambda done, total: None
        return self._bar(name) if self._bars is not None else _lines(name)

    def _bar(self, name: str) -> Tick:
        task = self._bars.add_task(name, total=None)

        def tick(done: float, total: float) -> None:
            self._bars.update(task, completed=done, total=total)

        return tick


def _lines(name: str) -> Tick:
    """At most one line a period, and one at the end."""
    last = time.monotonic()

    def tick(done: float, total: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PERIOD or done >= total > 0:
            last = now
            print(f"{name} {done / max(total, 1):4.0%}", file=sys.stderr, flush=True)

    return tick
