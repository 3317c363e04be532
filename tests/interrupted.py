"""A process that makes long calls and says when Ctrl-C stopped them.

`python interrupted.py CALL TRIALS`: prints "go" before each call and "stopped" once
the signal's exception is there; at the end "usable" if a call still gives its result.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import apportion as ap
from apportion import matching
from worker_calls import parallel_call


class Stopped(Exception):
    """Raised by a handler of our own."""


def alike_texts(count: int, length: int) -> list[str]:
    """Texts of the same letters in other orders: no short cut tells them apart."""
    letters = random.Random(0)
    return ["".join(letters.choices("abcdefgh", k=length)) for _ in range(count)]


Call = Callable[[], Any]


def similar(how: str, count: int, length: int) -> Call:
    texts = [*alike_texts(count, length), *alike_texts(2, 8)]
    # Two groups: the short one is done while a helper is still at the long one.
    rollouts = ap.Rollouts.from_padded(
        np.ones((len(texts), 1)),
        group_ids=["long"] * count + ["short"] * 2,
        outcome_rewards=np.zeros(len(texts)),
        turn_rewards=[[0.0]] * len(texts),
        anchors=[[text] for text in texts],
    )
    return lambda: ap.credit("gigpo", rollouts, similarity=how, similarity_threshold=0.97)


def one_pair(length: int) -> Call:
    texts = alike_texts(2, length)
    return lambda: matching.text_similarity(*texts)


def assignment(size: int) -> Call:
    scores = np.outer(np.arange(size), np.arange(size)).astype(float)  # each path is a long one
    return lambda: matching.match(scores)


def short_calls() -> Call:
    def forever() -> None:
        while True:
            parallel_call(2)

    return forever


def searching() -> Call:
    """A selection that only visits ends, for minutes, while another thread reads the search."""
    search = ap.Search(1, 9, num_simulations=4 * 10**9)
    ends = {"child_values": [[1.0, 0.0]], "child_terminal": [[True, True]]}
    search.expand(search.select(1), values=[0.0], **ends)

    def read() -> None:
        while True:
            assert search.simulations[0] >= 0
            time.sleep(0.001)

    threading.Thread(target=read, daemon=True).start()
    return lambda: search.select(1)


PREPARE: dict[str, Callable[[], Call]] = {
    "indel": lambda: similar("indel", 600, 4000),
    "difflib": lambda: similar("difflib", 1500, 2000),
    "one long pair": lambda: one_pair(1_000_000),
    "assignment": lambda: assignment(2000),
    "short calls": short_calls,
    "searching": searching,
}


def stopped_by(call: Call, wanted: type[BaseException]) -> None:
    print("go", flush=True)
    try:
        call()
    except wanted:
        print("stopped", flush=True)
    else:
        print("never stopped", flush=True)


def in_thread(call: Call) -> None:
    """The call in another thread: the signal is the main thread's, and nothing breaks."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    stopped_by(thread.join, KeyboardInterrupt)


def main(name: str, trials: int, mode: str) -> None:
    # Set by hand, because a shell that starts us in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    call = PREPARE[name]()
    if mode == "handler":

        def handler(*_: object) -> None:
            raise Stopped

        signal.signal(signal.SIGINT, handler)
    for _ in range(trials):
        if mode == "thread":
            in_thread(call)
        else:
            stopped_by(call, Stopped if mode == "handler" else KeyboardInterrupt)
    if parallel_call(1) == parallel_call(3):
        print("usable", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
