"""Others' ways from logits to log-probabilities, entropy and a loss. Depends on torch.

Liger, TRL and verl are used where they are installed, or unpacked in the folder that
`BENCH_PEERS` names (their wheels, unzipped): the files of the kernels are loaded alone,
so that nothing else of theirs need be there.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

if os.environ.get("BENCH_PEERS"):
    sys.path.insert(0, os.environ["BENCH_PEERS"])

LogProbs = Callable[[Any, Any], tuple[Any, Any]]


def eager(logits: Any, targets: Any) -> tuple[Any, Any]:
    """The shortest way, in float32 as trainers that care for it do."""
    every = logits.float().log_softmax(-1)
    log_probs = every.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return log_probs, -(every.exp() * every).sum(-1)


def compiled(function: LogProbs) -> LogProbs:
    return torch.compile(function, dynamic=True)


def trl_rows() -> LogProbs | None:
    """TRL's Triton kernel on logits."""
    module = file_of("trl", "kernels/logprob_entropy.py")
    return None if module is None else module.selective_log_softmax_and_entropy


def liger_grpo() -> Any:
    """Liger's GRPO on logits of shape `(B, L + 1, V)`, or none."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers.grpo_loss import triton_grpo_loss

    return triton_grpo_loss


def liger_linear_grpo() -> Any:
    """Liger's GRPO on hidden states and a head, or none."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    return LigerFusedLinearGRPOLoss


def trl_chunked() -> Any:
    """TRL's log-probabilities from hidden states and a head, or none."""
    try:
        from trl.kernels import ChunkedLogProbFunction
    except ImportError:
        return None
    return ChunkedLogProbFunction


def verl_linear() -> Any:
    """verl's Triton op from hidden states and a head to log-probabilities and entropy, or none."""
    root = importlib.util.find_spec("verl")
    if root is None or not root.submodule_search_locations:
        return None
    folder = Path(next(iter(root.submodule_search_locations)))
    # Empty packages in place of verl's own, which import all of a trainer.
    for name in ("verl", "verl.utils", "verl.utils.kernel"):
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    return linear_cross_entropy


def file_of(package: str, path: str) -> Any:
    """A file of a package as a module, without the package itself; none where it is not."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    spec = importlib.util.spec_from_file_location(
        f"{package}_{Path(path).stem}", Path(found.origin).parent / path
    )
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ppo(log_probs: Any, old: Any, advantages: Any, mask: Any) -> Any:
    """PPO's loss as trainers write it, a mean over tokens."""
    ratio = torch.exp(log_probs - old)
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.28))
    return (losses * mask).sum() / mask.sum()
