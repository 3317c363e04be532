"""What no method may depend on: the layout, the rows' order, the precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import apportion as ap
from random_batches import Batch, Shape, outputs, random_batch

SEEDS = range(4)
SHAPE = Shape(groups=4, size=4, nan_share=0.05, singletons=True)
# Credit goes to the first best row, or ties of clusters go to the first trajectory.
ORDER_MATTERS = {"grpo_passk", "a3"}


def taken(columns: dict[str, Any], order: np.ndarray) -> dict[str, Any]:
    def pick(values: Any) -> Any:
        if isinstance(values, np.ndarray):
            return values[order]
        return [values[row] for row in order]

    return {name: pick(values) for name, values in columns.items()}


def shape_for(method: str) -> Shape:
    return replace(SHAPE, singletons=False) if method == "grpo_passk" else SHAPE


@pytest.mark.parametrize("method", list(ap.methods()))
def test_padded_as_ragged(method: str) -> None:
    card = ap.methods()[method]
    for seed in SEEDS:
        batch = random_batch(seed, replace(shape_for(method), nan_share=0.0))
        padded = ap.credit(method, batch.rollouts(card)).to_padded()
        ends = [int(np.flatnonzero(row).max(initial=-1)) + 1 for row in batch.mask]
        kept = np.arange(batch.mask.shape[1]) < np.array(ends)[:, None]
        given = dict(batch.rollouts(card).columns)
        columns = {n: batch.columns[n] for n in given}
        for name in given:
            if ap.columns()[name].level == "token":
                columns[name] = batch.columns[name][kept]
        ragged = ap.Rollouts.from_ragged(np.cumsum([0, *ends]), mask=batch.mask[kept], **columns)
        got = ap.credit(method, ragged).advantages
        np.testing.assert_allclose(got, padded[kept], rtol=1e-9, atol=1e-12)
        assert not padded[~kept].any()


@pytest.mark.parametrize("method", [m for m in ap.methods() if m not in ORDER_MATTERS])
def test_order_of_rows(method: str) -> None:
    card = ap.methods()[method]
    for seed in SEEDS:
        batch = random_batch(seed, SHAPE)
        order = np.random.default_rng(seed).permutation(len(batch.mask))
        shuffled = Batch(batch.mask[order], taken(batch.columns, order))
        got = ap.credit(method, shuffled.rollouts(card)).to_padded()
        want = ap.credit(method, batch.rollouts(card)).to_padded()[order]
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", list(ap.methods()))
def test_single_precision(method: str) -> None:
    card = ap.methods()[method]
    for seed in SEEDS:
        single = random_batch(seed, replace(shape_for(method), dtype=np.float32))
        double = Batch(
            single.mask,
            {
                name: values.astype(np.float64)
                if isinstance(values, np.ndarray)
                else [np.asarray(v, float) for v in values]
                if _is_floats(name)
                else values
                for name, values in single.columns.items()
            },
        )
        exact = outputs(ap.credit(method, double.rollouts(card)))
        rounded = outputs(ap.credit(method, single.rollouts(card)))
        assert rounded["tokens"].dtype == np.float32
        assert exact["tokens"].dtype == np.float64
        for name, values in exact.items():
            np.testing.assert_allclose(rounded[name], values, rtol=2e-5, atol=2e-5)


def _is_floats(name: str) -> bool:
    return ap.columns()[name].kind in ("Float", "Reward", "Flag")


STEPS = ["grpo", "rloo", "maxrl", "gigpo", "matchtir"]


@pytest.mark.parametrize("method", STEPS)
def test_packed_as_step_rows(method: str) -> None:
    card = ap.methods()[method]
    for seed in SEEDS:
        batch = random_batch(seed, replace(SHAPE, nan_share=0.0))
        packed = ap.credit(method, batch.rollouts(card))
        spans = packed.rollouts.turns[1]
        width = batch.mask.shape[1]
        row_of = spans[:, 0] // width
        mask = np.zeros((len(spans), width), dtype=np.int64)
        for turn, (start, end) in enumerate(spans):
            mask[turn, : end - start] = 1
        columns: dict[str, Any] = {}
        for name in packed.rollouts.columns:
            values = batch.columns[name]
            if ap.columns()[name].level == "turn":
                columns[name] = [v for row in values for v in row]
            elif ap.columns()[name].level == "trajectory":
                columns[name] = [values[row] for row in row_of]
        columns.pop("reward_matrix", None)
        rows = ap.Rollouts.from_padded(mask, trajectory_ids=row_of, **columns)
        got = ap.credit(method, rows).turn_advantages
        np.testing.assert_allclose(got, packed.turn_advantages, rtol=1e-9, atol=1e-12)
