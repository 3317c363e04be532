"""A method that does not say `batch_wide` gives each group the same credit alone as in a batch.

Walks every method with its default options, so that a new method that forgets to say so fails.
"""

from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion import _core


def batch(rng: np.random.Generator, groups: int) -> dict[str, Any]:
    """Columns by row: rows of two turns of 3 and 2 tokens, four rows a group."""
    rows = 4 * groups
    values = {
        "group_ids": np.repeat(np.arange(groups), 4),
        "outcome_rewards": rng.integers(0, 3, rows).astype(float),
        "reward_baselines": rng.normal(size=rows),
        "turn_rewards": rng.normal(size=(rows, 2)),
        "anchors": rng.integers(0, 2, (rows, 2)),
        "token_rewards": rng.normal(size=(rows, 5)),
        "values": rng.normal(size=(rows, 5)),
        "old_log_probs": -rng.random((rows, 5)),
        "sum_pi_squared": rng.random((rows, 5)),
    }
    return {name: values[name] for name in values if name in ap.columns()}


def rollouts_of(data: dict[str, Any], rows: slice) -> ap.Rollouts:
    columns = {name: values[rows] for name, values in data.items()}
    count = len(columns["group_ids"])
    return ap.Rollouts.from_padded(
        np.ones((count, 5), dtype=int), turn_spans=[[(0, 3), (3, 5)]] * count, **columns
    )


@pytest.mark.parametrize("name", list(ap.methods()))
def test_groups_alone_and_together(name: str) -> None:
    card = ap.methods()[name]
    data = batch(np.random.default_rng(0), groups=3)
    missing = {c.name for c in card.columns if c.required} - data.keys()
    if missing:
        pytest.skip(f"needs {missing}")
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
