"""What a search has spent, over time. Standard library alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

POINTS = 512
"""Kept at most; beyond them every second one is dropped, and as many calls are summed up."""


class Timeline:
    """Sums over the calls of a search, kept at points in time."""

    def __init__(self) -> None:
        """Nothing is spent yet."""
        self._begun = time.monotonic()
        self._sums = dict.fromkeys(("answered", "nodes", "rollouts", "tokens", "failed"), 0)
        self._points: list[tuple[float, ...]] = []
        self._stride = 1
        self._calls = 0

    @property
    def seconds(self) -> float:
        """Since the search was made; the time of earlier processes counts."""
        return time.monotonic() - self._begun

    def note(
        self, name: str, args: tuple[Any, ...], result: Any, seconds: float | None = None
    ) -> None:
        """Adds what a call spent; `seconds` is when, of one that was made earlier."""
        sums = self._sums
        if seconds is not None:
            self._begun = time.monotonic() - seconds
        if name == "expand":
            columns = args[2]
            sums["answered"] += len(args[0])
            sums["nodes"] += result
            sums["rollouts"] += len(columns.get("rollout_rewards", ()))
            told = [columns[name][0] for name in ("tokens", "rollout_tokens") if name in columns]
            sums["tokens"] += sum(map(len, told))
        elif name == "fail":
            sums["failed"] += len(args[0])
        else:
            return
        self._calls += 1
        if self._calls % self._stride == 0:
            self._points.append((self.seconds if seconds is None else seconds, *sums.values()))
            if len(self._points) == POINTS:
                self._points = self._points[1::2]
                self._stride *= 2

    def state(self) -> list[Any]:
        """What a snapshot keeps."""
        sums, points = list(self._sums.values()), list(map(list, self._points))
        return [self.seconds, sums, points, self._stride, self._calls]

    def restore(self, state: Sequence[Any]) -> None:
        """Goes on from what `state` gave."""
        seconds, sums, points, self._stride, self._calls = state
        self._begun = time.monotonic() - seconds
        self._sums = dict(zip(self._sums, sums, strict=True))
        self._points = [tuple(point) for point in points]

    def columns(self) -> dict[str, list[float]]:
        """`seconds` and the sums at each point; the last point is now."""
        points = [(0.0, *[0] * len(self._sums)), *self._points]
        if self._calls % self._stride:
            points.append((self.seconds, *self._sums.values()))
        columns = zip(*points, strict=True)
        return dict(zip(("seconds", *self._sums), map(list, columns), strict=True))
