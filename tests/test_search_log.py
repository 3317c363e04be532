"""A search's log: what comes back, what is found out, and that a killed search goes on."""

from __future__ import annotations

import importlib.util
import os
import resource
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion import _core
from apportion.search import log as search_log

SOAK = Path(__file__).parent / "soak" / "kill_resume.py"
LOG = "events.log"

READS = {
    "paths", "path_tokens", "is_waiting", "in_flight", "simulations", "requests", "bytes",
    "nodes", "rollouts", "tokens", "log_probs", "child_scores", "child_values", "policy",
    "finals", "given_up", "pool_log", "unanswered", "save", "judges_children",
}  # fmt: skip


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_resume", SOAK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def small(folder: Path | None = None) -> ap.Search:
    search = ap.Search(2, 60, num_simulations=4, seed=1, root_noise=(0.25, 0.3))
    if folder is not None:
        search.log_to(folder)
    return search


def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
    values = [float(np.sin(3 * tree + path.sum())) for tree, path in leaves.paths()]
    return {"values": values, "priors": np.tile([0.5, 0.3, 0.2], (len(leaves), 1))}


def finished(search: ap.Search) -> dict[str, bytes]:
    search.run(evaluate, batch_size=3)
    return numbers(search)


def numbers(search: ap.Search) -> dict[str, bytes]:
    return {name: column.tobytes() for name, column in vars(search.nodes()).items()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children that it forks")
@pytest.mark.parametrize("name", ["puct", "gumbel", "arrival", "merged"])
def test_a_killed_search_ends_as_one_that_never_was(
    soak: ModuleType, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_log, "SNAPSHOT_BYTES", 2_000)
    job = soak.JOBS[name]
    search, seen = soak.killed_and_resumed(job, tmp_path, kills=10, seed=len(name))
    assert seen["kills"] == 10
    assert soak.state(search) == soak.state(job.finish(job.search()))
    assert soak.state(ap.Search.read(tmp_path)) == soak.state(search)
    search.close()


def test_every_call_is_either_logged_or_changes_nothing() -> None:
    methods = {name for name in dir(_core.Forest) if not name.startswith("_")}
    assert methods == READS | {"load"} | set(search_log.CALLS), (
        "sort a new method of the forest into READS here or CALLS in search/log.py"
    )


def test_resume_at_every_call(tmp_path: Path) -> None:
    """The log as it was after each call, resumed and finished."""
    expected = finished(small())
    search = small(tmp_path / "whole")
    states = [(tmp_path / "whole" / LOG).read_bytes()]
    while leaves := search.select(3):
        states.append((tmp_path / "whole" / LOG).read_bytes())
        search.expand(leaves, **evaluate(leaves))
        states.append((tmp_path / "whole" / LOG).read_bytes())
    assert numbers(search) == expected
    for index, state in enumerate(states):
        folder = tmp_path / f"after-{index}"
        folder.mkdir()
        (folder / LOG).write_bytes(state)
        again = ap.Search.resume(folder)
        assert again.in_flight in (0, 1, 2, 3)
        assert finished(again) == expected
        again.close()
        assert numbers(ap.Search.read(folder)) == expected


def test_time_is_spent_once(tmp_path: Path) -> None:
    search = ap.Search(1, 10_000, max_seconds=0.2)
    search.log_to(tmp_path)
    leaves = search.select(1)
    time.sleep(0.25)
    search.expand(leaves, **evaluate(leaves))
    search.close()
    again = ap.Search.resume(tmp_path)
    assert not again.select(1), "the time was spent by the process before"
    again.close()


def test_every_flipped_byte_is_found_and_every_cut_is_survived(tmp_path: Path) -> None:
    expected = finished(small())
    search = small(tmp_path)
    leaves = search.select(3)
    search.expand(leaves[:1], **evaluate(leaves[:1]))
    search.fail(leaves[1:])
    search.close()
    path = tmp_path / LOG
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(ap.FileFormatError, match=r"events\.log: damaged at byte \d+"):
            ap.Search.resume(tmp_path)
        assert path.read_bytes() == changed, "what is damaged is left alone"
    # Cut after the first record, which says what the search is.
    first = 8 + 8 + int.from_bytes(whole[8:12], "little") + 8
    for size in range(first, len(whole), 3):
        path.write_bytes(whole[:size])
        again = ap.Search.resume(tmp_path)
        finished(again)
        again.close()
    path.write_bytes(whole[:first])
    again = ap.Search.resume(tmp_path)
    assert finished(again) == expected
    again.close()
    path.write_bytes(whole[: first - 1])
    with pytest.raises(ap.FileFormatError, match="holds no search"):
        ap.Search.resume(tmp_path)


def test_requests_are_handed_out_again_in_pieces(tmp_path: Path) -> None:
    search = small(tmp_path)
    search.expand(leaves := search.select(2), **evaluate(leaves))
    asked = search.select(4, per_tree=2)
    assert len(asked) > 2
    search.expand(asked[1:2], **evaluate(asked[1:2]))
    search.close()
    again = ap.Search.resume(tmp_path)
    first, rest = again.select(1), again.select(100)
    expected = np.delete(asked.ticket, 1)
    np.testing.assert_array_equal([*first.ticket, *rest.ticket[: len(expected) - 1]], expected)
    np.testing.assert_array_equal(first.node, asked.node[:1])
    again.close()


def test_what_was_answered_since_is_not_handed_out_again(tmp_path: Path) -> None:
    search = small(tmp_path)
    search.expand(leaves := search.select(2), **evaluate(leaves))
    asked = search.select(4, per_tree=2)
    search.close()
    again = ap.Search.resume(tmp_path)
    again.expand(asked[1:2].ticket, **evaluate(asked[1:2]))
    np.testing.assert_array_equal(again.select(2).ticket, asked.ticket[[0, 2]])
    again.close()
    again = ap.Search.resume(tmp_path)
    again.expand(asked[[0, 2]].ticket, **evaluate(asked[[0, 2]]))
    assert not set(again.select(10).ticket) & set(asked.ticket) and again.in_flight
    again.close()


def test_a_log_that_was_killed_in_its_first_record_is_begun_anew(tmp_path: Path) -> None:
    small(tmp_path).close()
    whole = (tmp_path / LOG).read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / LOG).write_bytes(whole[:cut])
        assert not search_log.begun(tmp_path)
        search = small(tmp_path)
        assert search_log.begun(tmp_path)
        search.close()
        assert (tmp_path / LOG).read_bytes() == whole
    assert not search_log.begun(tmp_path / "none")


def test_the_timeline_goes_on(tmp_path: Path) -> None:
    search = small(tmp_path)
    finished(search)
    before = search.timeline
    search.close()
    after = ap.Search.read(tmp_path).timeline
    assert after["answered"] == before["answered"] and after["nodes"] == before["nodes"]
    np.testing.assert_allclose(after["seconds"], before["seconds"], atol=0.5)


def test_what_is_refused_is_not_logged(tmp_path: Path) -> None:
    search = small(tmp_path)
    leaves = search.select(2)
    size = (tmp_path / LOG).stat().st_size
    with pytest.raises(ap.InputError):
        search.expand(leaves, values=[np.nan, 0.0])
    with pytest.raises(ap.InputError):
        search.fail([99])
    assert (tmp_path / LOG).stat().st_size == size
    expected = finished(small())
    search.expand(leaves, **evaluate(leaves))
    assert numbers(search) != expected
    search.close()


def test_wrong_calls(tmp_path: Path) -> None:
    search = small(tmp_path / "a")
    with pytest.raises(ap.InputError, match="log_to: got a search that has begun"):
        search.log_to(tmp_path / "b")
    with pytest.raises(ap.InputError, match=r"events\.log: is there already; Search\.resume"):
        small(tmp_path / "a")
    late = small()
    late.select(1)
    with pytest.raises(ap.InputError, match="log_to: got a search that has begun"):
        late.log_to(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"events\.log"):
        ap.Search.resume(tmp_path / "none")
    search.close()
    with pytest.raises(ap.InputError, match="the log is closed"):
        search.select(1)
    (tmp_path / "a" / LOG).write_bytes(b"something else, longer than the magic number")
    with pytest.raises(ap.FileFormatError, match="damaged at byte 0: it does not begin as a log"):
        ap.Search.resume(tmp_path / "a")


@pytest.mark.skipif(search_log.fcntl is None, reason="no locks on this system")
def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    search = small(tmp_path)
    with pytest.raises(ap.InputError, match="another process writes it"):
        ap.Search.resume(tmp_path)
    ap.Search.read(tmp_path)
    search.close()
    ap.Search.resume(tmp_path).close()


def test_calls_of_many_threads_are_logged_in_their_order(tmp_path: Path) -> None:
    search = ap.Search(8, 4000, num_simulations=150, tell_order="arrival", deadline=3600)
    search.log_to(tmp_path)

    def work() -> None:
        while search.simulations.sum() < 8 * 150:
            leaves = search.select(4, per_tree=4)
            if leaves:
                search.expand(leaves, **evaluate(leaves))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for job in [pool.submit(work) for _ in range(4)]:
                job.result()
    finally:
        sys.setswitchinterval(interval)
    search.close()
    assert numbers(ap.Search.read(tmp_path)) == numbers(search)


def test_a_log_of_another_search_is_refused(tmp_path: Path) -> None:
    """Whole records that tell of something that cannot have happened."""
    head = [search_log.FORMAT, search_log.VERSION, [2, 60], {"num_simulations": 4}]
    select = ["select", [2, 0, "priority", 1], 0.1, 0]
    for number, (records, message) in enumerate(
        [
            ([], "holds no search"),
            ([["x"]], "holds no search"),
            ([[*head[:1], 99, *head[2:]]], "version 99 of the format, expected"),
            ([[*head[:3], {"rule": "none"}]], "the search cannot be made"),
            ([head, ["nodes", [], 0.0, 0]], "expected a call"),
            ([head, 7], "expected a call"),
            ([head, select], "event 1: select gave something else than when it was written"),
            ([head, ["fail", [np.array([5])], 0.1, 0]], "event 1: fail does not fit"),
            ([head, ["fail", [], 0.1, 0]], "event 1: fail does not fit"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        log = _core.EventLog(str(folder / LOG), True)
        for record in records:
            log.append(record)
        log.close()
        with pytest.raises(ap.FileFormatError, match=message):
            ap.Search.resume(folder)


def test_a_full_disk_ends_the_log_not_the_record_before(tmp_path: Path) -> None:
    search = small(tmp_path)
    search.expand(leaves := search.select(2), **evaluate(leaves))
    expected = numbers(search)
    leaves = search.select(3)
    size = (tmp_path / LOG).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
        with pytest.raises(OSError, match=r"events\.log"):
            search.expand(leaves, **evaluate(leaves))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(ap.InputError, match="the log ends before this: OSError"):
        search.select(1)
    assert (tmp_path / LOG).stat().st_size == size
    search.close()
    again = ap.Search.resume(tmp_path)
    assert numbers(again) == expected and again.in_flight == len(leaves)
    assert finished(again) == finished(small())
    again.close()


@pytest.fixture
def snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two snapshots of a finished search, which is logged in `tmp_path`; the newest first."""
    monkeypatch.setattr(search_log, "SNAPSHOT_BYTES", 100)
    search = ap.Search(2, 60, num_simulations=15, seed=1)
    search.log_to(tmp_path)
    finished(search)
    search.close()
    found = sorted(tmp_path.glob("snapshot-*.bin"), reverse=True)
    assert len(found) == search_log.KEPT and len(list(tmp_path.iterdir())) == 3
    return found


def test_a_snapshot_saves_the_replay(
    tmp_path: Path, snapshots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ap.Search.read(tmp_path)
    replayed: list[int] = []
    replay = search_log._replay

    def counted(path: Path, log: Any, search: Any, begun: int) -> int:
        replayed.append(replay(path, log, search, begun) - begun)
        return replayed[-1] + begun

    monkeypatch.setattr(search_log, "_replay", counted)
    again = ap.Search.resume(tmp_path)
    assert numbers(again) == numbers(whole)
    for name, column in whole.timeline.items():
        assert again.timeline[name] == pytest.approx(column, abs=0.2)
    again.close()
    for snapshot in snapshots:
        snapshot.unlink()
    assert numbers(ap.Search.read(tmp_path)) == numbers(whole)
    assert 0 <= replayed[0] < replayed[1]


def test_damaged_snapshots_are_left_aside(tmp_path: Path, snapshots: list[Path]) -> None:
    expected = numbers(ap.Search.read(tmp_path))
    whole = snapshots[0].read_bytes()
    for place in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[place] ^= 0x20
        snapshots[0].write_bytes(changed)
        with pytest.warns(RuntimeWarning, match=r"snapshot-\d+\.bin: damaged at byte \d+"):
            assert numbers(ap.Search.read(tmp_path)) == expected
    for snapshot in snapshots:
        snapshot.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(RuntimeWarning, match="replayed without this snapshot"):
        assert numbers(ap.Search.read(tmp_path)) == expected


def test_snapshots_of_another_version_are_left_aside(
    tmp_path: Path, snapshots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = numbers(ap.Search.read(tmp_path))
    monkeypatch.setattr(search_log, "SNAPSHOT_VERSION", 99)
    with pytest.warns(RuntimeWarning, match="is no snapshot of this version; the search is"):
        assert numbers(ap.Search.read(tmp_path)) == expected


def test_snapshots_of_another_log_are_left_aside(tmp_path: Path, snapshots: list[Path]) -> None:
    other = tmp_path / "other"
    search = ap.Search(2, 60, num_simulations=15, seed=2)
    search.log_to(other)
    expected = finished(search)
    search.close()
    for snapshot in other.glob("snapshot-*.bin"):
        snapshot.unlink()
    snapshots[0].rename(other / snapshots[0].name)
    with pytest.warns(RuntimeWarning, match="is of another log"):
        assert numbers(ap.Search.read(other)) == expected
    # Nor does a snapshot cover for what is damaged in the log before it.
    raw = bytearray((tmp_path / LOG).read_bytes())
    raw[len(raw) // 3] ^= 1
    (tmp_path / LOG).write_bytes(raw)
    with pytest.raises(ap.FileFormatError, match=r"events\.log: damaged at byte"):
        ap.Search.resume(tmp_path)


def test_a_snapshot_that_cannot_be_written_does_not_end_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, record: Any) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(search_log, "SNAPSHOT_BYTES", 100)
    monkeypatch.setattr(_core, "write_snapshot", full)
    search = small(tmp_path)
    with pytest.warns(RuntimeWarning, match="no snapshot was written: .*No space left"):
        assert finished(search) == finished(small())
    search.close()


def test_a_log_may_lie_where_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search_log, "SNAPSHOT_BYTES", 100)
    search = small(Path())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that no snapshot was written
        expected = finished(search)
    search.close()
    assert finished(ap.Search.resume(Path())) == expected


def test_values_of_every_kind_come_back(tmp_path: Path) -> None:
    log = _core.EventLog(str(tmp_path / LOG), True)
    record = [
        None, True, -(2**63), 1e-320, float("nan"), "\u05d0\U0001f600", b"\x00\xff", [],
        {"a": [1, {"b": None}]}, np.arange(3), np.array([0.1]), np.array([True, False]),
        np.array([2**32 - 1], dtype=np.uint32),
    ]  # fmt: skip
    log.append(record)
    for wrong in (object(), {1}, np.zeros((2, 2)), np.zeros(1, np.float32)):
        with pytest.raises(ap.DtypeError, match="log: got"):
            log.append([wrong])
    for wrong in (2**63, "\ud800"):
        with pytest.raises((OverflowError, UnicodeEncodeError)):
            log.append([wrong])
    log.close()
    got = _core.EventLog(str(tmp_path / LOG), False).read()
    assert repr(got) == repr((*record[:7], (), {"a": (1, {"b": None})}, *record[9:]))


def test_the_command_line_draws_a_log(tmp_path: Path) -> None:
    from apportion.cli import main

    search = small(tmp_path / "run")
    finished(search)  # still open: another process would run it
    output = tmp_path / "tree.html"
    assert main(["tree", str(tmp_path / "run"), "-o", str(output)]) == 0
    assert "Budget over time" in output.read_text("utf-8")
    search.close()
