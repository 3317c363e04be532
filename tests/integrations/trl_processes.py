"""Run by torchrun from test_trl.py: a group that lies across processes."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
from accelerate.utils import gather_object
from trl_runs import PLAIN, total, train, trainer, two_turns, weights

import apportion as ap
from apportion.integrations.trl import GRPOTrainer

SETTINGS = {**PLAIN, "per_device_train_batch_size": 2, "ddp_backend": "gloo"}


def uneven(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Two rows a process, cut from the rollouts of the whole batch; rank 0's are shorter."""
    rank = trainer.accelerator.process_index
    everyone = two_turns(prompts * trainer.accelerator.num_processes, trainer)
    own = slice(rank * len(prompts), (rank + 1) * len(prompts))
    return {k: None if v is None else v[own] for k, v in everyone.items()}


def main(folder: Path) -> None:
    runs = []
    ours = {"loss": "apportion", "top_entropy_quantile": 0.8}
    plain = {"top_entropy_quantile": 0.8}
    for kind, own in ((trl.GRPOTrainer, plain), (GRPOTrainer, plain), (GRPOTrainer, ours)):
        run = trainer(kind, folder, total, uneven, **SETTINGS, **own)
        train(run)
        runs.append(weights(run))
    assert torch.allclose(runs[1], runs[0], rtol=0, atol=1e-6)
    assert torch.allclose(runs[2], runs[0], rtol=0, atol=1e-6)

    run = trainer(GRPOTrainer, folder, total, uneven, credit="gigpo", **SETTINGS)
    assert run.accelerator.num_processes == 2
    run.model.train()
    out = run._generate_and_score_completions([{"prompt": "0 = "} for _ in range(2)])
    everyone = two_turns(["0 = "] * 4, run)
    lists = [
        {
            "group": 0,
            "outcome": sum(rewards),
            "turns": [
                {"tokens": [0] * own, "reward": reward, "anchor": anchor}
                for own, reward, anchor in zip((3, 4), rewards, anchors, strict=False)
            ],
        }
        for rewards, anchors in zip(everyone["turn_rewards"], everyone["anchors"], strict=True)
    ]
    expected = ap.credit("gigpo", ap.Rollouts.from_lists(lists)).turn_advantages
    trained = (out["completion_mask"] * out["tool_mask"]).bool()
    firsts = trained.clone()
    firsts[:, 1:] &= ~trained[:, :-1]
    got = gather_object(out["advantages"][firsts].tolist())
    assert np.allclose(got, expected, atol=1e-6) and np.abs(got).max() > 0.1
    widths = gather_object([out["advantages"].shape[1]])
    assert widths[0] != widths[1], widths


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends in the usual way
