"""A method that does not say `batch_wide` gives each group the same credit alone as in a batch.

Walks every method with its default options, so that a new method that forgets to say so fails.
"""

from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion import _core


def batch(rng: np.random.Generator, groups: int) -> dict[str, Any]:
    """Arguments of `from_ragged` with every reward column: rows of two turns of 1 to 3 tokens."""
    rows = 4 * groups
    lengths = rng.integers(1, 4, (rows, 2))
    return {
        "lengths": lengths,
        "group_ids": np.repeat(np.arange(groups), 4),
        "outcome_rewards": rng.integers(0, 3, rows).astype(float),
        "turn_rewards": rng.normal(size=(rows, 2)),
        "anchors": rng.integers(0, 2, (rows, 2)),
    }


def rollouts_of(data: dict[str, Any], rows: slice) -> ap.Rollouts:
    lengths = data["lengths"][rows]
    offsets = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))])
    known = {n: data[n][rows] for n in data if n != "lengths" and n in ap.columns()}
    for name in ("group_ids", "outcome_rewards"):
        known[name] = data[name][rows]
    spans = [[(0, int(a)), (int(a), int(a + b))] for a, b in lengths]
    return ap.Rollouts.from_ragged(offsets, turn_spans=spans, **known)


GIVEN = {"group_ids", "outcome_rewards", "turn_rewards", "anchors"}


@pytest.mark.parametrize("name", list(ap.methods()))
def test_groups_alone_and_together(name: str) -> None:
    card = ap.methods()[name]
    missing = {c.name for c in card.columns if c.required} - GIVEN
    if missing:
        pytest.skip(f"needs {missing}")
    data = batch(np.random.default_rng(0), groups=3)
    together = ap.credit(name, rollouts_of(data, slice(None))).advantages
    alone = [
        ap.credit(name, rollouts_of(data, slice(4 * g, 4 * g + 4))).advantages for g in range(3)
    ]
    same = np.array_equal(together, np.concatenate(alone))
    assert same is not card.batch_wide


def test_options_decide() -> None:
    assert not _core.batch_wide("grpo", {}, None)
    assert _core.batch_wide("grpo", {"scale": "batch"}, None)
    assert _core.batch_wide("gpg", {}, "verl")
    with pytest.raises(ap.OptionError, match="nonsense"):
        _core.batch_wide("grpo", {"nonsense": 1}, None)
