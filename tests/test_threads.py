"""The same bits for any number of threads, in every method."""

from __future__ import annotations

import numpy as np
import pytest

import apportion as ap
from random_batches import Shape, outputs, random_batch

# 1.3 million tokens: five times what a thread takes at a time.
LARGE = random_batch(1, Shape(groups=320, size=4, width=1024, turns=4, nan_share=0.01))
OPTIONS = {"gigpo": ({}, {"similarity": "indel"}), "matchtir": ({}, {"assign": "sinkhorn"})}


@pytest.mark.parametrize("method", list(ap.methods()))
def test_threads_change_no_bit(method: str) -> None:
    card = ap.methods()[method]
    for options in OPTIONS.get(method, ({},)):
        bits = []
        for threads in (1, 2, 3, 8):
            with ap.num_threads(threads):
                found = outputs(ap.credit(method, LARGE.rollouts(card), **options))
            bits.append({name: values.tobytes() for name, values in found.items()})
        for name, expected in bits[0].items():
            assert all(other[name] == expected for other in bits[1:]), (options, name)
        assert any(np.any(values) for values in found.values()), "nothing was computed"
