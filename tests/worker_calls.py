"""Calls that other processes make: a module of its own, so that they can import it."""

from __future__ import annotations

import hashlib
import sys
import threading

import numpy as np

import apportion as ap

ROWS, WIDTH = 1024, 1024  # four times what a thread takes at a time


def parallel_call(threads: int = 4) -> str:
    """A call that is split over threads; returns a hash of its bits."""
    at = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)
    columns = {"token_rewards": np.sin(at), "values": np.cos(at)}
    rollouts = ap.Rollouts.from_padded(np.ones((ROWS, WIDTH), np.uint8), **columns)
    with ap.num_threads(threads):
        return hashlib.sha256(ap.credit("gae", rollouts).advantages.tobytes()).hexdigest()


def of_worker(_: int) -> tuple[str, int]:
    """What a pool's worker answers: the hash, and how many threads it would use itself."""
    return parallel_call(), ap.get_num_threads()


def in_threads(count: int) -> list[str]:
    """The same call from several Python threads at once."""
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(parallel_call(3))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def data_loader() -> None:
    """A torch DataLoader whose workers call us, after the parent did."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Calls(Dataset[tuple[str, int]]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> tuple[str, int]:
            return of_worker(index)

    torch.set_num_threads(1)
    expected = parallel_call()
    loader = DataLoader(Calls(), batch_size=None, num_workers=4)
    answers = [tuple(answer) for answer in loader]
    assert answers == [(expected, 1)] * 8, answers
    print("loaded")


if __name__ == "__main__":
    {"data_loader": data_loader}[sys.argv[1]]()
