"""Run by `test_loss.py`: the gradient of a weight over 1 or 2 gloo processes."""

from __future__ import annotations

import sys
import tempfile

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import apportion as ap

MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "dr-grpo")


def gradients(rank: int, world: int) -> np.ndarray:
    """Of a scale on the log-probabilities, averaged over ranks as data parallelism does."""
    rng = np.random.default_rng(0)
    old, noise, advantages = (torch.from_numpy(rng.standard_normal((4, 6))) for _ in range(3))
    mask = torch.from_numpy(rng.random((4, 6)) < 0.7)
    own = slice(rank * 4 // world, (rank + 1) * 4 // world)
    found = []
    for mode in MODES:
        weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        loss, _ = ap.policy_loss(
            (old + weight * noise)[own],
            old[own],
            advantages[own],
            mask[own],
            loss_agg_mode=mode,
            num_tokens=float(mask.sum()),
            num_sequences=4,
            scale_factor=10.0,
            dp_size=world,
        )
        loss.backward()
        dist.all_reduce(weight.grad)
        found.append(weight.grad.item() / world)
    return np.array(found)


def work(rank: int, world: int, meeting: str, target: str) -> None:
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world)
    found = gradients(rank, world)
    if rank == 0:
        np.save(target, found)
    dist.destroy_process_group()


if __name__ == "__main__":
    world, target = int(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (world, f"{folder}/meet", target), nprocs=world)
