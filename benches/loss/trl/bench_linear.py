"""From hidden states and head to loss and gradients, against TRL's chunked operator.

TRL computes log-probabilities and entropy, and the loss is written out as trainers do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
kernels = pytest.importorskip("trl.kernels")
from heads import HEADS, Batch, batch, check_equal  # noqa: E402
from trl.trainer import utils  # noqa: E402

MODES = ["fused", "recompute"]


def trl(data: Batch) -> tuple[Any, Any]:
    """As TRL calls it, with its own width of a tile."""
    found = kernels.ChunkedLogProbFunction.apply(
        data.hidden,
        data.weight,
        None,
        data.targets,
        1.0,
        utils._CHUNKED_LOGPROB_CHUNK_SIZE,
        None,
        1.0,
        ("entropy",),
    )
    return found[0], found[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vocabulary", HEADS)
def bench_linear(compare: Callable[..., None], quick: bool, vocabulary: int, mode: str) -> None:
    check_equal(lambda b: b.ours(mode=mode), lambda b: b.step(lambda: trl(b)))
    data = batch(128 if quick else 256, vocabulary)
    compare(
        f"head {len(data.targets)}x{data.hidden.shape[1]}x{vocabulary}, {mode}",
        "TRL chunked",
        lambda: data.ours(mode=mode),
        lambda: data.step(lambda: trl(data)),
    )


@pytest.mark.parametrize("vocabulary", HEADS)
def bench_frozen(compare: Callable[..., None], quick: bool, vocabulary: int) -> None:
    data = batch(128 if quick else 256, vocabulary, trained=False)
    compare(
        f"head {len(data.targets)}x{data.hidden.shape[1]}x{vocabulary}, not trained",
        "TRL chunked",
        lambda: data.ours(),
        lambda: data.step(lambda: trl(data)),
    )
