"""Panics, and memory over many calls."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import apportion as ap
from apportion import _core, primitives
from random_batches import Shape, random_batch


@pytest.mark.parametrize("helper", [False, True])
def test_a_panic_is_an_internal_error(helper: bool) -> None:
    for _ in range(3):
        with pytest.raises(ap.InternalError, match="a bug in apportion, please report it: asked"):
            _core._panic(helper)
    assert primitives.group(["a", "b", "a"]).tolist() == [0, 1, 0]


def test_a_panic_in_another_python_thread() -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            _core._panic(True)
        except ap.InternalError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(caught) == 1


def resident() -> int:
    """Bytes of memory in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat() -> None:
    batch = random_batch(0, Shape(groups=2, size=3, width=8, turns=2))
    cards = ap.methods()
    rollouts = {name: batch.rollouts(card) for name, card in cards.items()}
    rejected = batch.rollouts(outcome_rewards=np.full(6, np.inf))

    def calls(rounds: int) -> None:
        for _ in range(rounds):
            for name in cards:
                _ = ap.credit(name, rollouts[name]).advantages
            _ = batch.rollouts(cards["gigpo"])._batch
            with pytest.raises(ap.InputError):
                ap.credit("grpo", rejected)

    calls(50)
    before = resident()
    calls(600)  # some ten thousand calls of the core
    grown = resident() - before
    assert grown < 4 << 20, f"{grown} bytes more after ten thousand calls"
