"""What float32 logits change: errors of log-probabilities and gradients against float64.

    python benches/loss/numerics.py

Hidden states and head are bfloat16. "bfloat16 logits" are `hidden @ weight.T` as torch gives
it, rounded; "float32 logits" is `token_log_probs((hidden, weight), ...)`. May depend on `heads`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

import apportion as ap

sys.path.insert(0, str(Path(__file__).parents[1]))
from heads import HEADS

TOKENS, VOCABULARY = 128, 151936


def tensors(spread: float) -> tuple[Any, Any, Any]:
    """Hidden states and head whose logits have this spread, and tokens sampled from them."""
    maker, width = torch.Generator().manual_seed(0), HEADS[VOCABULARY]
    hidden = torch.randn(TOKENS, width, generator=maker).bfloat16()
    weight = (torch.randn(VOCABULARY, width, generator=maker) * (spread / width**0.5)).bfloat16()
    chances = (hidden.float() @ weight.float().t()).softmax(-1)
    return hidden, weight, torch.multinomial(chances, 1, generator=maker).squeeze(-1)


def outcome(hidden: Any, weight: Any, targets: Any, rounded: bool) -> tuple[Any, Any, Any]:
    """Log-probabilities, entropy, and the gradient of their sum by the hidden states."""
    hidden = hidden.detach().requires_grad_()
    given = hidden @ weight.t() if rounded else (hidden, weight)
    log_probs, entropy = ap.token_log_probs(given, targets)
    (grad,) = torch.autograd.grad(log_probs.sum(), hidden)
    return log_probs.detach().double(), entropy.detach().double(), grad.double()


def main() -> None:
    print("| spread of logits | logits | log-prob: mean | largest | entropy: largest | ", end="")
    print("gradient | ratios off by 1 % | by 10 % |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for spread in (3.0, 6.0):
        hidden, weight, targets = tensors(spread)
        exact = outcome(hidden.double(), weight.double(), targets, rounded=False)
        for name, rounded in (("bfloat16", True), ("float32", False)):
            found = outcome(hidden, weight, targets, rounded)
            error = (found[0] - exact[0]).abs()
            ratio = (found[0] - exact[0]).exp()
            off = [((ratio - 1).abs() > limit).double().mean() for limit in (0.01, 0.1)]
            slope = (found[2] - exact[2]).norm() / exact[2].norm()
            print(
                f"| {spread:g} | {name} | {error.mean():.1e} | {error.max():.1e} | "
                f"{(found[1] - exact[1]).abs().max():.1e} | {slope:.1e} | "
                f"{off[0]:.0%} | {off[1]:.0%} |"
            )


if __name__ == "__main__":
    main()
