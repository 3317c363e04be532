"""From hidden states and head to loss and gradients, against eager torch.

Both compute the loss and the gradients of the hidden states and of the head, in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
from heads import HEADS, batch, check_equal  # noqa: E402

MODES = ["fused", "recompute"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vocabulary", HEADS)
def bench_linear(compare: Callable[..., None], quick: bool, vocabulary: int, mode: str) -> None:
    check_equal(lambda b: b.ours(mode=mode), lambda b: b.step(b.eager))
    data = batch(128 if quick else 256, vocabulary)
    compare(
        f"head {len(data.targets)}x{data.hidden.shape[1]}x{vocabulary}, {mode}",
        "eager torch",
        lambda: data.ours(mode=mode),
        lambda: data.step(data.eager),
    )


@pytest.mark.parametrize("vocabulary", HEADS)
def bench_frozen(compare: Callable[..., None], quick: bool, vocabulary: int) -> None:
    data = batch(128 if quick else 256, vocabulary, trained=False)
    compare(
        f"head {len(data.targets)}x{data.hidden.shape[1]}x{vocabulary}, not trained",
        "eager torch",
        lambda: data.ours(),
        lambda: data.step(data.eager),
    )
