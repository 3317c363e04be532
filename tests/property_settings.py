"""How many examples property tests try, and what they draw from.

Few and the same ones by default; more, and new ones each time, with the environment
variable `APPORTION_EXAMPLES`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_ASKED = os.environ.get("APPORTION_EXAMPLES")
examples = settings(
    max_examples=int(_ASKED or 40),
    derandomize=_ASKED is None,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# Few distinct scores, so that ties occur; and others, in steps that no statistic loses.
scores = st.sampled_from([0.0, 1.0, -0.5]) | st.integers(-3000, 3000).map(lambda n: n / 1000)
absent = st.just(float("nan"))
few_ids = st.integers(0, 3)


@dataclass(frozen=True)
class Table:
    """A padded batch: masks with gaps, groups of any size, one score and some per token."""

    mask: np.ndarray
    ids: list[int]
    scores: np.ndarray
    tokens: np.ndarray
    values: np.ndarray


@st.composite
def tables(draw: st.DrawFn, nan: bool = False, min_rows: int = 0) -> Table:
    """Up to 8 rows of up to 7 tokens; a row may be masked as a whole."""
    rows, width = draw(st.integers(min_rows, 8)), draw(st.integers(1, 7))
    score = scores | absent if nan else scores

    def grid(cell: st.SearchStrategy[float]) -> np.ndarray:
        cells = draw(st.lists(cell, min_size=rows * width, max_size=rows * width))
        return np.array(cells, dtype=np.float64).reshape(rows, width)

    mask = grid(st.sampled_from([0.0, 1.0, 1.0]))
    ids = draw(st.lists(few_ids, min_size=rows, max_size=rows))
    if rows and draw(st.booleans()):
        ids = [0] * rows  # one group, the usual case, which drawn ids seldom give
    own = np.array(draw(st.lists(score, min_size=rows, max_size=rows)), dtype=np.float64)
    if draw(st.integers(0, 5)) == 0:
        own[:] = own[:1].sum() if rows else 0.0  # no spread
    return Table(mask, ids, own, grid(scores), grid(scores))


def at_first(table: Table) -> np.ndarray:
    """The scores as token rewards whose row sums they are, as the oracles take them."""
    rewards = np.zeros_like(table.mask)
    rewards[:, 0] = table.scores
    return rewards


def close(got: object, want: object) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-8, atol=1e-9)
