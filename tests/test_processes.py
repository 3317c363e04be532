"""Calls in other processes after a parallel call here: none hangs, none differs."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import apportion as ap
from worker_calls import in_threads, of_worker, parallel_call

LIMIT = 60.0  # seconds; a hang is for ever, and the machine may be loaded
METHODS = [
    m for m in ("fork", "spawn", "forkserver") if m in multiprocessing.get_all_start_methods()
]
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def expected() -> str:
    return parallel_call()


def in_fork(call: Callable[[], bool]) -> bool:
    """Whether `call` is true in a forked child, which is ended where it hangs."""
    child = os.fork()
    if child == 0:
        answer = 1
        try:
            answer = 0 if call() else 1
        finally:
            os._exit(answer)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("a forked child hangs")


@forking
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_after_a_parallel_call(expected: str) -> None:
    assert in_fork(lambda: parallel_call() == expected)
    assert in_fork(lambda: in_fork(lambda: parallel_call() == expected))  # and a child's child
    assert parallel_call() == expected


@forking
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_other_threads_are_in_a_call(expected: str) -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            parallel_call(2)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert all(in_fork(lambda: parallel_call() == expected) for _ in range(3))
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_pools(method: str, expected: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        answers = pool.map_async(of_worker, range(4)).get(LIMIT)
    # Workers of a pool share the cores with one another.
    assert answers == [(expected, 1)] * 4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_executors(method: str, expected: str) -> None:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        answers = list(pool.map(of_worker, range(2), timeout=LIMIT))
    assert [answer for answer, _ in answers] == [expected] * 2


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_data_loader_workers() -> None:
    script = Path(__file__).with_name("worker_calls.py")
    command = [sys.executable, str(script), "data_loader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT)
    assert done.returncode == 0 and "loaded" in done.stdout, done.stderr


def test_many_python_threads_at_once(expected: str) -> None:
    assert in_threads(6) == [expected] * 6


def test_the_environment_says_how_many_threads() -> None:
    def asked(**given: str) -> str:
        cleaned = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        code = "import apportion\ntry: print(apportion.get_num_threads())\n"
        code += "except apportion.InputError as e: print(e)"
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env={**cleaned, **given}, capture_output=True, text=True, timeout=LIMIT
        )
        return done.stdout.strip()

    assert asked(APPORTION_NUM_THREADS="3") == "3"
    assert asked(APPORTION_NUM_THREADS="3", RAYON_NUM_THREADS="5") == "3"
    assert asked(RAYON_NUM_THREADS="5") == "5"
    assert asked(APPORTION_NUM_THREADS="") == asked()
    assert 1 <= int(asked()) <= 8
    for wrong in ("0", "-1", "many", "1.5", "99999"):
        said = asked(APPORTION_NUM_THREADS=wrong)
        assert said == f"APPORTION_NUM_THREADS: got {wrong!r}, expected an integer from 1 to 4096"


def test_the_nearest_setting_wins() -> None:
    outside = ap.get_num_threads()
    with ap.num_threads(3):
        assert ap.get_num_threads() == 3
        with pytest.raises(KeyError), ap.num_threads(5):
            assert ap.get_num_threads() == 5
            raise KeyError
        assert ap.get_num_threads() == 3
        ap.set_num_threads(7)
        assert ap.get_num_threads() == 3
    assert ap.get_num_threads() == 7
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(ap.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [7]
    ap.set_num_threads(outside)
