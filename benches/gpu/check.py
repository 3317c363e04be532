"""Command 1: the machine's ceilings, and our numbers on it against float64.

    PYTHONPATH=python python benches/gpu/check.py

The rule: our error is at most twice that of torch in the logits' own type, plus a floor
(log-probabilities and entropies 1e-5; gradients 1e-6 of the largest in float32, 4e-3 in
bfloat16). The peers' errors stand beside. `pytest tests/kernels/row_kernels.py` has the
odd cases, and runs compiled where there is a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import Bench, start
from peers import eager, trl_rows

import apportion as ap

FLOORS = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
"""Of gradients, relative to the largest."""


def logits_of(bench: Bench, rows: int, vocab: int, peaked: bool, seed: int = 0) -> torch.Tensor:
    """Of spread 3; peaked: one token a row has all but a millionth of the probability."""
    source = torch.Generator(device=bench.device).manual_seed(seed)
    logits = 3 * torch.randn(rows, vocab, generator=source, device=bench.device)
    if peaked:
        at = torch.randint(vocab, (rows, 1), generator=source, device=bench.device)
        logits.scatter_(1, at, 40.0)
    return logits


def errors(function: Callable[..., Any], logits: Any, targets: Any, want: Any) -> list[float]:
    """Largest errors of log-probability, entropy and, relative to the largest, gradient."""
    own = logits.detach().requires_grad_()
    got = function(own, targets)
    (slope,) = torch.autograd.grad((got[0] - 0.1 * got[1]).sum(), own)
    found = [(x.double() - y).abs().max().item() for x, y in zip(got, want[:2], strict=True)]
    return [*found, ((slope.double() - want[2]).abs().max() / want[2].abs().max()).item()]


def exact(logits: Any, targets: Any) -> tuple[Any, Any, Any]:
    own = logits.double().requires_grad_()
    every = own.log_softmax(-1)
    log_probs = every.gather(-1, targets[:, None]).squeeze(-1)
    entropy = -(every.exp() * every).sum(-1)
    (slope,) = torch.autograd.grad((log_probs - 0.1 * entropy).sum(), own)
    return log_probs.detach(), entropy.detach(), slope


def plain(logits: Any, targets: Any) -> tuple[Any, Any]:
    """Torch in the logits' own type."""
    every = logits.log_softmax(-1)
    return every.gather(-1, targets[:, None]).squeeze(-1), -(every.exp() * every).sum(-1)


def main() -> int:
    bench = start("check")
    bench.ceilings()
    rows = bench.size(256, 4)
    wrong = 0
    for vocab in bench.size((32000, 128256, 151936, 50257), (300, 8200)):
        for kind in (torch.float32, torch.bfloat16):
            for peaked in (False, True):
                logits = logits_of(bench, rows, vocab, peaked).to(kind)
                targets = torch.randint(vocab, (rows,), device=bench.device)
                want = exact(logits, targets)
                providers = {"torch": plain, "eager": eager, "ours": ap.token_log_probs}
                if (trl := trl_rows()) is not None and not bench.rehearsal:
                    providers["trl"] = trl
                found = {n: errors(f, logits, targets, want) for n, f in providers.items()}
                floors = (1e-5, 1e-5, FLOORS[kind])
                good = all(
                    mine <= 2 * theirs + floor
                    for mine, theirs, floor in zip(
                        found["ours"], found["torch"], floors, strict=True
                    )
                )
                wrong += not good
                case = {"vocab": vocab, "type": str(kind), "peaked": peaked, "good": good}
                bench.rows.append({**case, "errors": found})
    table = [
        f"{bench.facts['device']}: copy {bench.facts['copy_gb_s']:.0f} GB/s, "
        f"bfloat16 product {bench.facts['gemm_tflop_s']:.0f} TFLOP/s"
    ]
    for row in bench.rows:
        listed = "  ".join(
            f"{name} " + "/".join(f"{e:.1e}" for e in found)
            for name, found in row["errors"].items()
        )
        mark = "good " if row["good"] else "WRONG"
        case = f"{row['vocab']:>7} {row['type'][6:]:<9}{'peaked' if row['peaked'] else '':<7}"
        table.append(f"{mark} {case} {listed}")
    bench.finish([*table, f"{wrong} of {len(bench.rows)} wrong"])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
