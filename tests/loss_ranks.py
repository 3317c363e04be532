"""Run by `test_loss.py`: losses and their gradients over 1 or 2 gloo processes.

Each process takes a share of the rows in micro-batches; what is saved is the sum of its
micro-batches' losses and of their gradients, averaged over processes as data parallelism
averages gradients.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import apportion as ap

ROWS, WIDTH = 8, 6
PROMPTS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
MODES = (
    *("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean"),
    *("dr-grpo", "prompt-mean"),
)
BY_BATCH = {"clip_cov", "kl_cov"}  # they choose tokens among those of the call


def settings() -> list[dict[str, Any]]:
    """Every loss once, every mode and every level of the ratio."""
    others = sorted(set(ap.losses()) - BY_BATCH)
    return [
        *({"loss": name, "kl_coef": 0.1, "kl_kind": "k3+"} for name in others),
        *({"loss_agg_mode": mode, "dual_clip": 1.5} for mode in MODES),
        *({"ratio": level, "ratio_grad": "mean"} for level in ("token", "turn", "sequence")),
    ]


def shares(rank: int, world: int, micro: int) -> list[slice]:
    """The micro-batches of a process: of unequal size where they can be."""
    rows = range(rank * ROWS // world, (rank + 1) * ROWS // world)
    cuts = [rows[0], *(rows[0] + 1 + 2 * k for k in range(micro - 1)), rows[-1] + 1]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def results(rank: int, world: int, micro: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    tensors = [torch.from_numpy(rng.standard_normal((ROWS, WIDTH))) for _ in range(5)]
    old, noise, advantages, reference, returns = tensors
    mask = torch.from_numpy(rng.random((ROWS, WIDTH)) < 0.7)
    lengths = mask.sum(-1).double()
    prompt_tokens = torch.stack([lengths[prompt == PROMPTS].sum() for prompt in PROMPTS])
    counts = {"num_tokens": float(mask.sum()), "num_sequences": ROWS, "scale_factor": 10.0}
    counts |= {"dp_size": world, "num_prompts": 3}
    found = []
    for options in [*settings(), None]:
        weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        total = torch.zeros((), dtype=torch.float64)
        for own in shares(rank, world, micro):
            given = {**counts, "prompt_tokens": prompt_tokens[own]}
            inputs = (old + weight * noise)[own], old[own]
            if options is None:
                loss, _ = ap.value_loss(*inputs, returns[own], mask[own], **given)
            else:
                given |= {"ref_log_probs": reference[own], **options}
                loss, _ = ap.policy_loss(*inputs, advantages[own], mask[own], **given)
            loss.backward()
            total += loss.detach()
        assert weight.grad is not None
        for value in (total, weight.grad):
            dist.all_reduce(value)
            found.append(value.item() / world)
    return np.array(found)


def work(rank: int, world: int, meeting: str, target: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world)
    for micro in (1, 2):
        found = results(rank, world, micro)
        if rank == 0:
            np.save(f"{target}-{micro}.npy", found)
    dist.barrier()
    if world > 1:
        os._exit(0)  # gloo's threads may abort a process that ends in the usual way
    dist.destroy_process_group()


if __name__ == "__main__":
    world, target = int(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (world, f"{folder}/meet", target), nprocs=world)
