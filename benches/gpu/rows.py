"""Command 2: from logits to a loss and its gradient, against eager, compiled, Liger and TRL.

    PYTHONPATH=python python benches/gpu/rows.py

Providers get the same bfloat16 logits. `forward` is log-probability and entropy without a
gradient, `step` the forward pass, PPO's loss and the gradient of the logits. Liger's op
has the loss inside and no entropy. In-place variants, Liger's and ours, overwrite the
logits, so after the first run they read gradients: the work is the same. `gradient` is our
second kernel alone, in place. Then 20 lengths of a batch and how often each of them
compiles anew, and other blocks than the shipped. Goals G1 to G3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from check import logits_of
from goals import of_rows, recorded
from harness import Bench, start
from peers import compiled, eager, liger_grpo, ppo, trl_rows

import apportion as ap
from apportion.kernels.reference.row import Row
from apportion.kernels.triton import row

SEQUENCES = 8
PASSES = {"forward": 1, "gradient": 2, "step": 3}
"""How often a part reads or writes all logits, at the least."""

unchecked = partial(ap.token_log_probs, check=False)


class Inputs:
    """One set. Liger reads `(8, L + 1, V)`, of which the last row of a sequence is not used."""

    def __init__(self, bench: Bench, tokens: int, vocab: int, peaked: bool, seed: int) -> None:
        each = (SEQUENCES, tokens // SEQUENCES)
        given = {
            "generator": torch.Generator(device=bench.device).manual_seed(seed),
            "device": bench.device,
        }
        self.memory = torch.stack(
            [
                logits_of(bench, each[1] + 1, vocab, peaked, SEQUENCES * seed + i).bfloat16()
                for i in range(SEQUENCES)
            ]
        )
        self.targets = torch.randint(vocab, each, **given)
        self.old = -12 * torch.rand(each, **given)
        self.advantages = torch.randn(SEQUENCES, **given)
        self.mask = torch.ones(each, device=bench.device)

    @property
    def whole(self) -> Any:
        """All logits, as a tensor to be differentiated by."""
        return self.memory.detach().requires_grad_()

    @property
    def logits(self) -> Any:
        """Those of the targets."""
        return self.memory[:, :-1].detach().requires_grad_()


def forward(function: Callable[..., Any], inputs: Inputs) -> None:
    with torch.no_grad():
        function(inputs.logits, inputs.targets)


class Gradient:
    """Our second kernel alone, the gradient written over the logits."""

    def __init__(self, inputs: Inputs) -> None:
        self.logits = inputs.memory[:, :-1].detach()
        self.row = Row(inputs.targets, None, 1.0, None, 0, self.logits.shape[-1])
        _, lse, entropy = row.row_stats(self.logits, self.row, with_entropy=True)
        self.saved = lse, entropy
        self.upstream = torch.ones_like(lse), torch.zeros_like(lse), None

    def __call__(self) -> None:
        row.row_grad(self.logits, self.row, self.saved, self.upstream, self.logits)


def step(function: Callable[..., Any], inputs: Inputs) -> Any:
    """With the loss in torch, as trainers have it."""
    logits = inputs.logits
    log_probs, _ = function(logits, inputs.targets)
    loss = ppo(log_probs, inputs.old, inputs.advantages[:, None], inputs.mask)
    return torch.autograd.grad(loss, logits)[0]


def our_step(inputs: Inputs, in_place: bool) -> Any:
    logits = inputs.logits
    log_probs, _ = ap.token_log_probs(logits, inputs.targets, in_place=in_place, check=False)
    loss, _ = ap.policy_loss(
        log_probs,
        inputs.old,
        inputs.advantages,
        inputs.mask,
        clip_low=0.2,
        clip_high=0.28,
        log_ratio_bounds=None,
    )
    return torch.autograd.grad(loss, logits)[0]


def liger_step(function: Any, inputs: Inputs) -> Any:
    whole = inputs.whole
    result = function(
        whole,
        inputs.old,
        None,
        inputs.targets,
        inputs.advantages,
        inputs.mask,
        temperature=1.0,
        beta=0.0,
        eps_low=0.2,
        eps_high=0.28,
        inplace=True,
        reduce=True,
    )
    loss = result[0] if isinstance(result, tuple) else result
    return torch.autograd.grad(loss, whole)[0][:, :-1]


def providers(bench: Bench) -> dict[str, dict[str, Callable[[Inputs], Any]]]:
    """What each provider does for `forward` and for `step`."""
    found: dict[str, dict[str, Callable[[Inputs], Any]]] = {
        "ours": {
            "forward": lambda i: forward(unchecked, i),
            "step": lambda i: our_step(i, False),
        },
        "ours, in place": {"step": lambda i: our_step(i, True)},
        "eager": {"forward": lambda i: forward(eager, i), "step": lambda i: step(eager, i)},
    }
    if not bench.rehearsal:
        quick = compiled(eager)
        found["torch.compile"] = {
            "forward": lambda i: forward(quick, i),
            "step": lambda i: step(quick, i),
        }
    if (trl := trl_rows()) is not None:
        found["TRL"] = {"forward": lambda i: forward(trl, i), "step": lambda i: step(trl, i)}
    if (liger := liger_grpo()) is not None:
        found["Liger, in place"] = {"step": lambda i: liger_step(liger, i)}
    return found


def compare(bench: Bench) -> None:
    shapes = [(n, v) for n in (8192, 32768) for v in (32000, 128256, 151936)]
    for tokens, vocab in bench.size(shapes, [(8, 130)]):
        for peaked in (False, True) if tokens == bench.size(8192, 8) else (False,):
            # Small logits need several sets, so that no cache holds them.
            count = bench.size(3 if tokens * vocab < 2**30 else 1, 1)
            sets = [Inputs(bench, tokens, vocab, peaked, seed) for seed in range(count)]
            case = {"tokens": tokens, "vocab": vocab, "peaked": peaked}
            for name, parts in providers(bench).items():
                for part, run in parts.items():
                    runs = [partial(run, inputs) for inputs in sets]
                    found = bench.measure({**case, "provider": name, "part": part}, runs)
                    add_share(bench, found)
            own = {**case, "provider": "ours, in place", "part": "gradient"}
            add_share(bench, bench.measure(own, [Gradient(inputs) for inputs in sets]))
            del sets


def add_share(bench: Bench, found: dict[str, Any]) -> None:
    """The share of the copy's rate that the least traffic there is would have."""
    if "ms" in found:
        traffic = 2 * PASSES[found["part"]] * found["tokens"] * found["vocab"]
        found["share_of_copy"] = traffic / found["ms"] / 1e6 / bench.facts["copy_gb_s"]


def agreement(bench: Bench) -> dict[str, float]:
    """Largest difference of each provider's gradient from the eager one's, of its largest."""
    inputs = Inputs(bench, bench.size(512, 8), bench.size(32000, 130), False, 0)
    copy, slopes = inputs.memory.clone(), {}
    for name, parts in providers(bench).items():
        inputs.memory.copy_(copy)
        slopes[name] = parts["step"](inputs).float().clone()
    want = slopes.pop("eager")
    return {n: ((x - want).abs().max() / want.abs().max()).item() for n, x in slopes.items()}


def recompilations(bench: Bench) -> dict[str, int]:
    """Forms that 20 lengths of a batch make the kernels compile."""
    lengths = [bench.size(257, 1) + 13 * i for i in range(bench.size(20, 1))]
    runs: dict[str, tuple[Any, Callable[[Inputs], Any]]] = {"ours": (row, lambda i: our_step(i, 0))}
    if (liger := liger_grpo()) is not None:
        import liger_kernel.ops.grpo_loss as kernels

        runs["Liger"] = (kernels, lambda i: liger_step(liger, i))
    counts = {}
    for name, (module, run) in runs.items():
        before = forms(module)
        for seed, length in enumerate(lengths):
            run(Inputs(bench, SEQUENCES * length, bench.size(32000, 130), False, seed))
        counts[name] = forms(module) - before
    return counts


def forms(module: Any) -> int:
    """How many forms of a module's kernels are compiled."""
    kernels = {id(k): k for k in vars(module).values() if hasattr(k, "device_caches")}
    return sum(len(cache[0]) for k in kernels.values() for cache in k.device_caches.values())


def sweep(bench: Bench) -> None:
    """Other blocks and warps than the shipped ones, at one shape."""
    inputs = Inputs(bench, bench.size(8192, 8), bench.size(151936, 130), False, 0)
    shipped = (row.STATS_BLOCK, row.STATS_WARPS), (row.GRAD_BLOCK, row.GRAD_WARPS)
    choices = [(b, w) for b in (2048, 4096, 8192, 16384) for w in (4, 8, 16)]
    for block, warps in bench.size(choices, [(128, 1)]):
        row.STATS_BLOCK, row.STATS_WARPS = row.GRAD_BLOCK, row.GRAD_WARPS = block, warps
        own = {"sweep": f"block {block}, {warps} warps"}
        bench.measure({**own, "part": "forward"}, [partial(forward, unchecked, inputs)])
        bench.measure({**own, "part": "step"}, [partial(our_step, inputs, True)])
    (row.STATS_BLOCK, row.STATS_WARPS), (row.GRAD_BLOCK, row.GRAD_WARPS) = shipped


def table(bench: Bench) -> list[str]:
    lines = [
        f"{bench.facts['device']}, copy {bench.facts['copy_gb_s']:.0f} GB/s; "
        f"share: of the copy's rate, at 2NV bytes (forward), 4NV (gradient) and 6NV (step)",
        f"{'tokens':>7}{'vocab':>8} {'part':<9}{'provider':<24}"
        f"{'ms':>9}{'noise':>7}{'GiB':>8}{'share':>7}",
    ]
    for found in (r for r in bench.rows if "provider" in r):
        case = f"{found['tokens']:>7}{found['vocab']:>8} {found['part']:<9}"
        case += f"{found['provider'] + ', peaked' * found['peaked']:<24}"
        if "ms" in found:
            case += f"{found['ms']:>9.3f}{found['spread']:>7.1%}{found['peak_gib']:>8.2f}"
            case += f"{found['share_of_copy']:>7.0%}"
        lines.append(case + found.get("error", ""))
    lines += [f"gradients off eager's by {bench.facts['agreement']}"]
    lines += [f"compiled for 20 lengths: {bench.facts['recompilations']}"]
    return [*lines, *(goal.line() for goal in of_rows(bench.rows, bench.facts))]


def main() -> int:
    bench = start("rows")
    bench.ceilings()
    bench.facts["agreement"] = agreement(bench)
    compare(bench)
    bench.facts["recompilations"] = recompilations(bench)
    sweep(bench)
    bench.facts["goals"] = recorded(of_rows(bench.rows, bench.facts))
    bench.finish(table(bench))
    return 0


if __name__ == "__main__":
    sys.exit(main())
