"""One line that says how far a search is. Depends on the standard library alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

WIDTH = 24
PERIOD = 0.1


class Bar:
    """A bar on a terminal, rewritten in place; elsewhere a line every ten seconds."""

    def __init__(self, unit: str, total: int, stream: TextIO | None = None) -> None:
        """`unit` names what is counted, up to `total`; written to `stream`, else stderr."""
        self.unit, self.total = unit, total
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.start = self.last = time.monotonic()
        self.first: int | None = None

    def update(self, done: int, note: str = "", last: bool = False) -> None:
        """Show that `done` units are done, not oftener than can be read."""
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        if not last and now - self.last < (PERIOD if self.live else 100 * PERIOD):
            return
        self.last = now
        share = min(1.0, done / self.total) if self.total else 1.0
        rate = (done - self.first) / max(now - self.start, 1e-9)
        filled = round(share * WIDTH)
        bar = "#" * filled + "-" * (WIDTH - filled)
        text = f"[{bar}] {done:,}/{self.total:,} {self.unit}, {rate:,.0f}/s{note}"
        if self.live:
            self.stream.write("\r\x1b[K" + text + ("\n" if last else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()


def reporter(progress: bool, search: Any) -> Callable[[bool], None]:
    """A function that shows a search's simulations, or nothing."""
    if not progress:
        return lambda last: None
    bar = Bar("simulations", search.num_simulations * search.num_roots)

    def show(last: bool) -> None:
        bar.update(int(search.simulations.sum()), f", {search.in_flight} in flight", last)

    return show
