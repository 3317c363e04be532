"""Run by `test_log_probs.py`: a vocabulary split over 1 or 2 gloo processes."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import apportion as ap

sys.path.insert(0, str(Path(__file__).parent))
from row_oracle import gradients, row_oracle

VOCAB = 14


def error(rank: int, cut: int, settings: dict[str, object], group: object) -> float:
    """Largest difference from the whole vocabulary in one place; `cut`: what rank 0 holds."""
    source = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 4, VOCAB, generator=source, dtype=torch.float64)
    logits[0, 0, cut:] = -torch.inf
    targets = torch.randint(VOCAB, (3, 4), generator=source)
    targets[0, 0], targets[2, 1] = 0, VOCAB - 1
    mask = torch.rand(3, 4, generator=source) < 0.8
    mask[0, 0] = True
    upstream = torch.randn(2, 3, 4, generator=source, dtype=torch.float64) * mask
    logits.requires_grad_()
    entropy = settings.get("entropy", True)
    want = row_oracle(logits, targets, mask, 0.8)
    want = want if entropy else (want[0], None)
    own = slice(0, cut) if rank == 0 else slice(cut, VOCAB)
    slope = gradients(want, upstream, logits)[..., own]
    part = (logits.detach()[..., own] * 1.0).requires_grad_()
    got = ap.token_log_probs(
        part * 1.0,
        targets,
        mask=mask,
        temperature=0.8,
        vocab_group=group,
        vocab_offset=own.start,
        vocab_size=VOCAB,
        **settings,
    )
    pairs = [*zip(got, want, strict=True), (gradients(got, upstream, part), slope)]
    return max((x - y).abs().max().item() for x, y in pairs if x is not None)


def work(rank: int, world: int, meeting: str, target: str) -> None:
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world)
    group = dist.group.WORLD
    cuts = (VOCAB,) if world == 1 else (VOCAB // 2, 3)
    ways = ({}, {"in_place": True}, {"entropy": False})
    torch.save(
        {(cut, *way): error(rank, cut, way, group) for cut in cuts for way in ways},
        f"{target}{rank}",
    )
    dist.barrier()
    if world > 1:
        os._exit(0)  # gloo's threads may abort a process that ends in the usual way
    dist.destroy_process_group()


if __name__ == "__main__":
    world, target = int(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world, f"{folder}/meet", target)
        if world == 1:
            work(0, *arguments)
        else:
            mp.spawn(work, arguments, nprocs=world)
