"""Command 3: from hidden states and a head to a loss and its gradients, and their memory.

    PYTHONPATH=python python benches/gpu/linear.py

Providers get the same bfloat16 hidden states and head; a step is the forward pass, PPO's
loss and the gradients of both. Times are also given as shares of the matrix products that
are the least there is: three for a fused pass, four with recomputation, two for a head
that is not trained. Goals G4 to G6.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from goals import of_heads, recorded
from harness import Bench, start
from peers import compiled, eager, liger_linear_grpo, ppo, trl_chunked, verl_linear

import apportion as ap

SEQUENCES = 8


class Inputs:
    """`(8, L, H)` hidden states and a `(V, H)` head whose logits have a spread of 3."""

    def __init__(self, bench: Bench, tokens: int, width: int, vocab: int) -> None:
        each = (SEQUENCES, tokens // SEQUENCES)
        source = torch.Generator(device=bench.device).manual_seed(tokens)
        given = {"generator": source, "device": bench.device}
        self.hidden = torch.randn(*each, width, **given).bfloat16().requires_grad_()
        head = 3 / width**0.5 * torch.randn(vocab, width, **given)
        self.head = head.bfloat16().requires_grad_()
        self.targets = torch.randint(vocab, each, **given)
        self.old = -12 * torch.rand(each, **given)
        self.advantages = torch.randn(SEQUENCES, **given)
        self.mask = torch.ones(each, device=bench.device)

    def clear(self, trained: bool = True) -> None:
        self.hidden.grad = self.head.grad = None
        self.head.requires_grad_(trained)

    def backward(self, log_probs: Any) -> None:
        log_probs = log_probs.view(self.old.shape)
        ppo(log_probs, self.old, self.advantages[:, None], self.mask).backward()


def by_logits(hidden: Any, head: Any, targets: Any) -> Any:
    return eager(hidden @ head.t(), targets)[0]


def eager_step(inputs: Inputs, trained: bool, function: Callable[..., Any] = by_logits) -> None:
    inputs.clear(trained)
    inputs.backward(function(inputs.hidden, inputs.head, inputs.targets))


def our_step(inputs: Inputs, trained: bool, **options: Any) -> None:
    inputs.clear(trained)
    loss, _ = ap.linear_policy_loss(
        inputs.hidden,
        inputs.head,
        inputs.targets,
        inputs.old,
        inputs.advantages,
        inputs.mask,
        clip_low=0.2,
        clip_high=0.28,
        log_ratio_bounds=None,
        check=False,
        **options,
    )
    loss.backward()


def trl_step(function: Any, inputs: Inputs, trained: bool) -> None:
    inputs.clear(trained)
    hidden, targets = inputs.hidden.flatten(0, 1), inputs.targets.flatten()
    found = function.apply(hidden, inputs.head, None, targets, 1.0, 32768, None, 1.0, ("entropy",))
    inputs.backward(found[0])


def verl_step(function: Any, inputs: Inputs) -> None:
    inputs.clear()
    hidden, targets = inputs.hidden.flatten(0, 1), inputs.targets.flatten()
    inputs.backward(function(hidden, inputs.head, targets, 1.0, "none")[0])


def liger_step(function: Any, inputs: Inputs) -> None:
    inputs.clear()
    found = function(
        inputs.hidden,
        inputs.head,
        inputs.targets,
        inputs.mask,
        inputs.advantages,
        old_per_token_logps=inputs.old,
    )
    (found[0] if isinstance(found, tuple) else found).backward()


def providers(bench: Bench, tokens: int, vocab: int) -> dict[str, tuple[int, Callable[..., Any]]]:
    """A step of each, and how many matrix products it is measured against."""
    found: dict[str, tuple[int, Callable[..., Any]]] = {
        "ours, recompute": (4, lambda i: our_step(i, True, mode="recompute")),
        "ours, frozen head": (2, lambda i: our_step(i, False, mode="frozen")),
        "eager": (3, lambda i: eager_step(i, True)),
        "eager, frozen head": (2, lambda i: eager_step(i, False)),
    }
    for chunk in bench.size((1024, 2048, 4096), (tokens,)):
        budget = {
            "mode": "fused",
            "memory_budget": 6 * chunk * vocab,
        }  # float32 logits, their gradient
        found[f"ours, fused {chunk}"] = (3, lambda i, budget=budget: our_step(i, True, **budget))
    if not bench.rehearsal:
        quick = compiled(by_logits)
        found["torch.compile"] = (3, lambda i: eager_step(i, True, quick))
    if (trl := trl_chunked()) is not None:
        found["TRL"] = (4, lambda i: trl_step(trl, i, True))
        found["TRL, frozen head"] = (3, lambda i: trl_step(trl, i, False))
    if (verl := verl_linear()) is not None and not bench.rehearsal:
        found["verl"] = (4, lambda i: verl_step(verl, i))
    if (made := liger_linear_grpo()) is not None:
        liger = made(beta=0.0, use_ref_model=False, epsilon_high=0.28, compiled=not bench.rehearsal)
        found["Liger"] = (4, lambda i: liger_step(liger, i))
    return found


def compare(bench: Bench) -> None:
    shapes = [(8192, 4096, 128256), (32768, 2048, 151936), (131072, 2048, 151936)]
    for tokens, width, vocab in bench.size(shapes, [(8, 8, 130)]):
        inputs = Inputs(bench, tokens, width, vocab)
        case = {"tokens": tokens, "width": width, "vocab": vocab}
        for name, (products, step) in providers(bench, tokens, vocab).items():
            found = bench.measure({**case, "provider": name}, [partial(step, inputs)])
            if "ms" in found:
                rate = 2 * products * tokens * width * vocab / found["ms"] / 1e9
                found["share_of_gemm"] = rate / bench.facts["gemm_tflop_s"]
            inputs.clear()


def agreement(bench: Bench) -> dict[str, float]:
    """Largest difference of each provider's gradient of the head from eager's, of its largest."""
    tokens, vocab = bench.size(512, 8), bench.size(32000, 130)
    inputs = Inputs(bench, tokens, bench.size(1024, 8), vocab)
    slopes = {}
    for name, (_, step) in providers(bench, tokens, vocab).items():
        if "frozen" not in name:
            step(inputs)
            slopes[name] = inputs.head.grad.float().clone()
    want = slopes.pop("eager")
    return {n: ((x - want).abs().max() / want.abs().max()).item() for n, x in slopes.items()}


def table(bench: Bench) -> list[str]:
    lines = [
        f"{bench.facts['device']}, bfloat16 product {bench.facts['gemm_tflop_s']:.0f} TFLOP/s; "
        "memory beyond hidden states and head, gradients included",
        f"{'tokens':>7}{'width':>6}{'vocab':>8} {'provider':<20}"
        f"{'ms':>9}{'noise':>7}{'GiB':>8}{'share':>7}",
    ]
    for found in bench.rows:
        case = f"{found['tokens']:>7}{found['width']:>6}{found['vocab']:>8} "
        case += f"{found['provider']:<20}"
        if "ms" in found:
            case += f"{found['ms']:>9.2f}{found['spread']:>7.1%}{found['peak_gib']:>8.2f}"
            case += f"{found['share_of_gemm']:>7.0%}"
        lines.append(case + found.get("error", ""))
    lines += [f"gradients off eager's by {bench.facts['agreement']}"]
    return [*lines, *(goal.line() for goal in of_heads(bench.rows))]


def main() -> int:
    bench = start("linear")
    bench.ceilings()
    bench.facts["agreement"] = agreement(bench)
    compare(bench)
    bench.facts["goals"] = recorded(of_heads(bench.rows))
    bench.finish(table(bench))
    return 0


if __name__ == "__main__":
    sys.exit(main())
