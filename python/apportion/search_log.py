"""A search on disk: every call that changes it, so that it can go on after a crash.

A folder holds `events.log`: first what the search was made with, then the calls with
their arguments, in the format of the core's `tree/persist`. The search is a function of
these calls, so replaying them gives it back bit for bit. A call is written after it
has happened; one that was under way when the process was killed never happened.
Depends on `timeline`, `errors` and the core.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apportion import _core
from apportion.arrays import Array
from apportion.errors import FileFormatError, InputError, InternalError

try:
    import fcntl
except ImportError:  # no such locks on this system: two writers are not told apart
    fcntl = None  # type: ignore[assignment]

CALLS = ("select", "expand", "fail", "cancel")
"""Methods of the core's forest that change it."""

FORMAT = "apportion-search"
VERSION = 1
EVENTS = "events.log"


class SearchLog:
    """Makes calls to a forest and writes them down."""

    def __init__(self, folder: Path, log: _core.EventLog, lock: int | None) -> None:
        """Takes over an open log; see `create` and `replay`."""
        self._folder, self._log, self._lock = folder, log, lock
        self._again: list[dict[str, Array]] = []
        self._broken: str | None = None

    @classmethod
    def create(cls, folder: Path, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> SearchLog:
        """A new log of a search that was made with these arguments."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / EVENTS
        try:
            log = _core.EventLog(str(path), True)
        except FileExistsError as error:
            message = f"{path}: is there already; Search.resume goes on with it"
            raise InputError(message) from error
        found = cls(folder, log, _locked(path))
        log.append([FORMAT, VERSION, list(arguments[0]), arguments[1]])
        log.sync()
        return found

    def call(self, forest: Any, name: str, args: tuple[Any, ...], seconds: float) -> Any:
        """Makes a call that changes the forest, then writes it down."""
        if self._broken is not None:
            raise InputError(f"{self._folder}: the log ends before this: {self._broken}")
        if name == "select" and self._again:
            return self._ask_again(args[0])
        try:
            result = getattr(forest, name)(*args)
            self._log.append([name, list(args), seconds, _digest(result)])
        except InternalError as error:
            self._broken = str(error)
            raise
        except InputError:
            raise  # refused: nothing has changed
        except BaseException as error:
            self._broken = f"{type(error).__name__} {error}".strip()
            raise
        return result

    def _ask_again(self, size: int) -> dict[str, Array]:
        """Requests that were handed out before the search was resumed, oldest first."""
        rows = self._again[0]
        out = {name: column[:size] for name, column in rows.items()}
        rest = {name: column[size:] for name, column in rows.items()}
        self._again = [rest] if len(rest["ticket"]) else []
        return out

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        self._log.sync()

    def close(self) -> None:
        """Takes no more calls, and lets others resume."""
        self._broken = "the log is closed"
        self._log.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


Made = Callable[[tuple[Any, ...], Mapping[str, Any]], Any]


def read(folder: Path, make: Made, note: Callable[[Any, str, tuple[Any, ...], float], None]) -> Any:
    """A search as its log leaves it, without going on with it."""
    log = _core.EventLog(str(folder / EVENTS), False)
    return _replay(folder / EVENTS, log, make, note)[0]


def resume(
    folder: Path, make: Made, note: Callable[[Any, str, tuple[Any, ...], float], None]
) -> tuple[Any, SearchLog]:
    """A search as its log leaves it, and the log to go on with.

    Args:
        folder: where the log is.
        make: a search with these arguments, whose `_forest` is replayed into.
        note: told of each call and of the seconds at which it was made.
    """
    path = folder / EVENTS
    lock = _locked(path)
    try:
        log = _core.EventLog(str(path), False)
        search, asked = _replay(path, log, make, note)
        log.resume()
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    found = SearchLog(folder, log, lock)
    if len(asked["ticket"]):
        found._again = [asked]
    return search, found


def _replay(
    path: Path,
    log: _core.EventLog,
    make: Made,
    note: Callable[[Any, str, tuple[Any, ...], float], None],
) -> tuple[Any, dict[str, Array]]:
    """The search, and its requests that wait for an answer."""
    search = _made(path, log.read(), make)
    forest = search._forest
    asked: list[dict[str, Array]] = []
    for number, (name, args, seconds, digest) in enumerate(_events(path, log), 1):
        try:
            result = getattr(forest, name)(*args)
        except (InputError, TypeError) as error:
            message = f"{path}: event {number}: {name} does not fit to what came before: {error}"
            raise FileFormatError(message) from error
        if _digest(result) != digest:
            raise FileFormatError(
                f"{path}: event {number}: {name} gave something else than when it was written; "
                "was it written by another version of apportion?"
            )
        note(search, name, args, seconds)
        if name == "select" and len(result["ticket"]):
            asked.append(result)
    return search, _waiting(forest, asked)


def _made(path: Path, head: Any, make: Made) -> Any:
    if head is None or not isinstance(head, tuple) or head[:1] != (FORMAT,) or len(head) != 4:
        raise FileFormatError(f"{path}: holds no search")
    if head[1] != VERSION:
        raise FileFormatError(f"{path}: version {head[1]!r} of the format, expected {VERSION}")
    try:
        return make(head[2], head[3])
    except (InputError, TypeError) as error:
        raise FileFormatError(f"{path}: the search cannot be made: {error}") from error


def _events(path: Path, log: _core.EventLog) -> Iterator[tuple[str, tuple[Any, ...], float, Any]]:
    while (event := log.read()) is not None:
        if not isinstance(event, tuple) or len(event) != 4 or event[0] not in CALLS:
            raise FileFormatError(f"{path}: got {event!r:.60}, expected a call")
        yield event


def _digest(result: Any) -> int:
    """A number that tells what a call gave: whether a replay goes the same way."""
    if result is None:
        return 0
    found = 0
    for name in ("ticket", "tree", "node"):
        found = zlib.crc32(result[name].tobytes(), found)
    return found


def _waiting(forest: Any, asked: list[dict[str, Array]]) -> dict[str, Array]:
    """Of all requests that were handed out, those that wait for an answer."""
    kept = []
    for rows in asked:
        waits = forest.is_waiting(rows["ticket"])
        if waits.any():
            kept.append({name: column[waits] for name, column in rows.items()})
    if not kept:
        return {"ticket": np.zeros(0, dtype=np.int64)}
    return {name: np.concatenate([rows[name] for rows in kept]) for name in kept[0]}


def _locked(path: Path) -> int | None:
    """Holds a file for this process alone; the system lets go when the process ends."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise InputError(f"{path}: another process writes it") from error
    return descriptor
