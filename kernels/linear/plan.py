"""How many logits are held at a time, decided on the host. Standard library alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MEMORY_BUDGET = 160 * 2**20
"""Bytes of logits held at a time, where nothing else is asked for."""

NARROWEST = 2048
"""Columns that a slab has at least: thinner ones waste the matrix units on the sums that
they are added to."""


INVARIANT_ROWS = 128
"""Tokens that are projected together where no bit may depend on how many there are."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the pieces.

    Attributes:
        rows: tokens whose logits over the whole vocabulary are held at a time.
        slab: columns of the vocabulary that the backward pass takes at a time.
        tile: tokens that it takes at a time within a slab.
    """

    rows: int
    slab: int
    tile: int


def make_plan(
    tokens: int,
    vocabulary: int,
    width: int,
    logit_bytes: int,
    budget: int,
    batch_invariant: bool = False,
) -> Plan:
    """The largest pieces whose logits stay within `budget` bytes.

    `budget` is at least one row of logits. A slab spans all tokens where one of
    `NARROWEST` columns can; with more tokens than that it is computed in tiles. So that the
    sum of its gradient by the head, `width` numbers a column, also stays within, few tokens
    do not make it wider. With `batch_invariant`, `rows` does not depend on `tokens`.
    """
    most = budget // logit_bytes
    tokens = max(tokens, 1)
    rows = min(INVARIANT_ROWS if batch_invariant else tokens, max(most // vocabulary, 1))
    slab = min(vocabulary, max(most // max(tokens, width), NARROWEST))
    return Plan(rows, slab, min(tokens, max(most // slab, 1)))


def slices(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of `size` that cover `count`; the last may be shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
