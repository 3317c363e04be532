"""Log-probability and entropy of rows of logits, and their gradient, against eager torch.

Ours is `token_log_probs` on logits, which on a processor is the core's row operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import apportion as ap

torch = pytest.importorskip("torch")
from heads import HEADS, eager  # noqa: E402

TYPES = [torch.float32, torch.bfloat16, torch.float64]


def name(kind: Any) -> str:
    return str(kind).removeprefix("torch.")


@pytest.mark.parametrize("part", ["forward", "forward and backward"])
@pytest.mark.parametrize("kind", TYPES, ids=name)
@pytest.mark.parametrize("vocabulary", HEADS)
def bench_rows(
    compare: Callable[..., None], quick: bool, vocabulary: int, kind: Any, part: str
) -> None:
    tokens = 64 if quick else 512
    logits = (3 * torch.randn(tokens, vocabulary)).to(kind)
    targets = torch.randint(vocabulary, (tokens,))

    def forward(function: Callable[..., Any]) -> Any:
        with torch.no_grad():
            return function(logits, targets)

    def both(function: Callable[..., Any]) -> Any:
        own = logits.detach().requires_grad_()
        log_probs, entropy = function(own, targets)
        (log_probs.sum() + 0.01 * entropy.sum()).backward()
        return own.grad

    torch.testing.assert_close(both(ap.token_log_probs), both(eager), rtol=2e-2, atol=1e-3)
    run = forward if part == "forward" else both
    compare(
        f"rows {tokens}x{vocabulary} {name(kind)}, {part}",
        "eager torch",
        lambda: run(ap.token_log_probs),
        lambda: run(eager),
        goal=5 if kind == torch.float32 and not quick else None,
    )
