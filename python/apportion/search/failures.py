"""What a loop's failures have cost its search. Depends on `desk`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apportion.search.desk import Desk

NAMED = 8
"""Trees that a message names at most."""


class Failures:
    """The nodes that a loop gave up, and why."""

    def __init__(self, search: Desk) -> None:
        """A loop that begins."""
        self._search = search
        self._before = len(search.given_up[0])
        self.last: BaseException | None = None
        """The last error of whoever evaluates."""

    def __str__(self) -> str:
        """How many nodes were given up, and whose roots; empty where none was."""
        trees, nodes = self._search.given_up
        if len(nodes) == self._before:
            return ""
        were = "node was" if len(nodes) == 1 else "nodes were"
        text = f"{len(nodes)} {were} given up (option max_failures)"
        roots = trees[nodes == 0].tolist()
        if roots:
            named = ", ".join(map(str, roots[:NAMED])) + (", ..." if len(roots) > NAMED else "")
            text += f", {len(roots)} of them with a whole tree: {named}"
        return text

    def warn(self) -> None:
        """Say at the end what was given up, to whoever called `run`."""
        text = str(self)
        if not text:
            return
        why = "an answer that came late, or had a number that is not finite"
        if self.last is not None:
            why = f"{type(self.last).__name__}: {self.last}"
        warnings.warn(f"search: {text}; the last failure: {why}", RuntimeWarning, stacklevel=4)
