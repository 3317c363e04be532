"""Command 4: the policy loss of log-probabilities that are there, with its gradient.

    PYTHONPATH=python python benches/gpu/light.py

Time is that of all kernels of a step on the device, as the profiler counts them: the host
takes longer to launch kernels this small than they run. Waits are those that CUDA warns
of. Goal G7.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from goals import of_light, recorded
from harness import Bench, start
from peers import ppo

import apportion as ap

Step = Callable[[], Any]
RUNS = 50


def steps(bench: Bench) -> dict[str, Step]:
    """A step of each provider, on the same tensors."""
    size = bench.size((64, 2048), (2, 8))
    source = torch.Generator(device=bench.device).manual_seed(0)
    given = {"generator": source, "device": bench.device}
    old = -torch.rand(size, **given)
    log_probs = (old + 0.1 * torch.randn(size, **given)).requires_grad_()
    advantages = torch.randn(size, **given)
    mask = torch.rand(size, **given) < 0.8

    def ours() -> Any:
        loss, _ = ap.policy_loss(
            log_probs, old, advantages, mask, clip_high=0.28, log_ratio_bounds=None
        )
        return torch.autograd.grad(loss, log_probs)[0]

    def eager() -> Any:
        loss = ppo(log_probs, old, advantages, mask)
        return torch.autograd.grad(loss, log_probs)[0]

    return {"ours": ours, "eager": eager}


def device_time(bench: Bench, step: Step) -> float:
    """Microseconds of all kernels of a step."""
    if bench.rehearsal:
        return 1000 * bench.time([step])["ms"]
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(RUNS):
            step()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages()) / RUNS


def waits(bench: Bench, step: Step) -> int:
    """How often a step makes the host wait for the device."""
    if bench.rehearsal:
        step()
        return 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in seen)


def main() -> int:
    bench = start("light")
    bench.ceilings()
    made = steps(bench)
    want = made["eager"]()
    off = (made["ours"]() - want).abs().max() / want.abs().max()
    bench.facts["agreement"] = {"ours": off.item()}
    bench.facts["waits"] = waits(bench, made["ours"])
    for name, step in made.items():
        found = bench.measure({"tokens": want.numel(), "provider": name}, [step])
        if "ms" in found:
            found["device_us"] = device_time(bench, step)
    goals = of_light(bench.rows, bench.facts)
    bench.facts["goals"] = recorded(goals)
    lines = [
        f"{row['provider']:<8}{row['device_us']:>9.1f} us on the device, {row['ms']:.3f} ms in all"
        for row in bench.rows
        if "device_us" in row
    ]
    bench.finish([bench.facts["device"], *lines, *(goal.line() for goal in goals)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
