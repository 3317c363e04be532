"""A search on disk: every call that changes it, so that it can go on after a crash.

A folder holds `events.log`: first what the search was made with, then the calls with
their arguments, in the format of the core's `tree/persist`. The search is a function of
these calls, so replaying them gives it back bit for bit. A call is written after it
has happened; one that was under way when the process was killed never happened.

Now and then a snapshot of the search is written beside the log, so that only the calls
after it are replayed. It is a short cut alone: one that is damaged is left aside.
Depends on `timeline`, `errors` and the core.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
VERSION = 2
SNAPSHOT_VERSION = 3
"""Changes with what the core holds in memory; a log outlives that."""
EVENTS = "events.log"
MAGIC_BYTES = 8
"""Bytes with which a log begins, before its first record."""
SNAPSHOT_BYTES = 16 << 20
"""Bytes by which a log grows before the next snapshot, unless the last one was larger."""
KEPT = 2  # snapshots, the newest


class SearchLog:
    """Makes calls to a forest and writes them down."""

    def __init__(
        self, folder: Path, log: _core.EventLog, lock: int | None, events: int, snapshot: int
    ) -> None:
        """Takes over a log that is open for writing.

        `events` is the number of calls in it, `snapshot` how many bytes of it the newest
        snapshot covers.
        """
        self._folder, self._log, self._lock, self._events = folder, log, lock, events
        self._again: dict[str, Array] | None = None
        self._broken: str | None = None
        self._snapshot_at = snapshot + SNAPSHOT_BYTES

    @classmethod
    def create(cls, folder: Path, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> SearchLog:
        """A new log of a search that was made with these arguments."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / EVENTS
        if begun(folder):
            raise InputError(f"{path}: is there already; Search.resume goes on with it")
        _remove_unbegun(path)
        log = _core.EventLog(str(path), True)
        lock = _locked(path)
        log.append([FORMAT, VERSION, list(arguments[0]), arguments[1]])
        log.sync()
        return cls(folder, log, lock, 0, 0)

    def call(self, search: Any, name: str, args: tuple[Any, ...]) -> Any:
        """Makes a call that changes the search, then writes it down."""
        if self._broken is not None:
            raise InputError(f"{self._folder}: the log ends before this: {self._broken}")
        if name == "select" and self._again is not None:
            again = self._ask_again(search, args[0])
            if self._again is not None or len(again["ticket"]):
                return again
        try:
            result = getattr(search._forest, name)(*args)
            self._log.append([name, list(args), search._timeline.seconds, _digest(result)])
        except InternalError as error:
            self._broken = str(error)
            raise
        except InputError:
            raise  # refused: nothing has changed
        except BaseException as error:
            self._broken = f"{type(error).__name__} {error}".strip()
            raise
        self._events += 1
        search._timeline.note(name, args, result)
        if self._log.size() >= self._snapshot_at:
            self._snapshot(search)
        return result

    def _ask_again(self, search: Any, size: int) -> dict[str, Array]:
        """Requests that were handed out before the search was resumed, oldest first, but for
        those that have been answered since."""
        rows = self._again or {}
        waits = search._forest.is_waiting(rows["ticket"])
        rows = {name: column[waits] for name, column in rows.items()}
        out = {name: column[:size] for name, column in rows.items()}
        rest = {name: column[size:] for name, column in rows.items()}
        self._again = rest if len(rest["ticket"]) else None
        return out

    def _snapshot(self, search: Any) -> None:
        """Writes what the search holds. That it cannot be written does not end the search."""
        state = search._forest.save()
        self._snapshot_at = self._log.size() + max(SNAPSHOT_BYTES, len(state))
        timeline = search._timeline.state()
        record = [FORMAT, SNAPSHOT_VERSION, self._events, self._log.chain().to_bytes(8, "little")]
        try:
            self._log.sync()  # a snapshot must not tell of calls that the log has not
            path = self._folder / f"snapshot-{self._events:015d}.bin"
            _core.write_snapshot(str(path), [*record, timeline, state])
            for old in _snapshots(self._folder)[KEPT:]:
                old.unlink()
        except (OSError, FileFormatError) as error:
            warnings.warn(f"no snapshot was written: {error}", RuntimeWarning, stacklevel=4)

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


def begun(folder: Path) -> bool:
    """Whether a folder has a log with at least its first record, to go on with."""
    path = folder / EVENTS
    if not path.exists() or path.stat().st_size <= MAGIC_BYTES:
        return False
    return _core.EventLog(str(path), False).read() is not None


def _remove_unbegun(path: Path) -> None:
    """Clears away the log of a process that was killed before it wrote the first record."""
    if not path.exists():
        return
    lock = _locked(path)  # refuses where that process is still about to
    path.unlink()
    if lock is not None:
        os.close(lock)


Make = Callable[[tuple[Any, ...], Mapping[str, Any]], Any]


def read(folder: Path, make: Make) -> Any:
    """A search as its log leaves it, without going on with it.

    Args:
        folder: where the log is.
        make: gives a search made with these arguments.
    """
    return _replayed(folder, make)[0]


def resume(folder: Path, make: Make) -> tuple[Any, SearchLog]:
    """A search as its log leaves it, and the log to go on with."""
    path = folder / EVENTS
    lock = _locked(path)
    for unfinished in folder.glob("snapshot-*.tmp"):
        unfinished.unlink()
    try:
        search, log, events, covered = _replayed(folder, make)
        log.resume()
        found = SearchLog(folder, log, lock, events, covered)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    if search._forest.in_flight():
        found._again = search._forest.unanswered()
    return search, found


def _replayed(folder: Path, make: Make) -> tuple[Any, _core.EventLog, int, int]:
    """The search, its log read to the end, how many calls that holds, and how many bytes of
    it came from a snapshot."""
    path = folder / EVENTS
    for snapshot in [*_snapshots(folder), None]:
        log = _core.EventLog(str(path), False)
        search = _made(path, log.read(), make)
        begun = 0 if snapshot is None else _restored(search, log, snapshot)
        if begun is not None:
            covered = 0 if snapshot is None else log.size()
            return search, log, _replay(path, log, search, begun), covered
    raise AssertionError("without a snapshot the whole log is replayed")


def _restored(search: Any, log: _core.EventLog, snapshot: Path) -> int | None:
    """Puts a search where a snapshot was taken; the calls before it, or `None` in vain."""
    try:
        events, chain, timeline, state = _content(snapshot)
    except FileFormatError as error:
        _left_aside(error)
        return None
    # What is damaged here is the log, and an error: not among what is left aside.
    there = all(log.skip() for _ in range(events)) and log.chain() == chain
    try:
        if not there:
            raise FileFormatError(f"{snapshot}: is of another log")
        search._forest.load(state)
        search._timeline.restore(timeline)
    except (FileFormatError, TypeError, ValueError) as error:
        _left_aside(error)
        return None
    return events


def _content(snapshot: Path) -> tuple[int, int, Any, bytes]:
    """Number of calls, checksum of the log, timeline and state."""
    record = _core.read_snapshot(str(snapshot))
    kinds = (str, int, int, bytes, tuple, bytes)
    whole = isinstance(record, tuple) and tuple(map(type, record)) == kinds
    if not whole or record[:2] != (FORMAT, SNAPSHOT_VERSION):
        raise FileFormatError(f"{snapshot}: is no snapshot of this version")
    return record[2], int.from_bytes(record[3], "little"), record[4], record[5]


def _left_aside(error: Exception) -> None:
    message = f"{error}; the search is replayed without this snapshot"
    warnings.warn(message, RuntimeWarning, stacklevel=6)


def _replay(path: Path, log: _core.EventLog, search: Any, begun: int) -> int:
    """Makes the calls of a log, from number `begun` on; how many it holds."""
    number = begun
    for number, (name, args, seconds, digest) in enumerate(_events(path, log), begun + 1):
        try:
            result = getattr(search._forest, name)(*args)
        except (InputError, TypeError) as error:
            message = f"{path}: event {number}: {name} does not fit to what came before: {error}"
            raise FileFormatError(message) from error
        if _digest(result) != digest:
            raise FileFormatError(
                f"{path}: event {number}: {name} gave something else than when it was written; "
                "was it written by another version of apportion?"
            )
        search._timeline.note(name, args, result, seconds)
    return number


def _snapshots(folder: Path) -> list[Path]:
    """Snapshots in a folder, the newest first."""
    return sorted(folder.glob("snapshot-*.bin"), reverse=True)


def _made(path: Path, head: Any, make: Make) -> Any:
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
    """A number that tells what `select` gave: whether a replay goes the same way. Else 0."""
    if not isinstance(result, dict):
        return 0
    found = 0
    for name in ("ticket", "tree", "node"):
        found = zlib.crc32(result[name].tobytes(), found)
    return found


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
