"""Batches that are odd but legal: every method answers with finite credit or a named error."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import apportion as ap
from random_batches import Batch, Shape, outputs, random_batch

PLAIN = Shape()
NARROW = replace(PLAIN, groups=1, width=6, turns=1)

ODD: dict[str, Batch] = {
    "no rows": random_batch(1, replace(PLAIN, groups=0)),
    "no tokens": random_batch(2, replace(PLAIN, width=0, turns=0)),
    "one row": random_batch(3, replace(NARROW, size=1)),
    "one row, one token": random_batch(4, replace(NARROW, size=1, width=1)),
    "only singletons": random_batch(5, replace(PLAIN, groups=6, size=1)),
    "some rows masked": random_batch(6, replace(PLAIN, masked_rows=True)),
    "some rewards absent": random_batch(8, replace(PLAIN, nan_share=0.3)),
    "all rewards absent": random_batch(9, replace(PLAIN, nan_share=1.0)),
    "all rewards absent, float32": random_batch(9, replace(PLAIN, nan_share=1.0, dtype=np.float32)),
    "all rewards zero": random_batch(10, replace(PLAIN, scale=0.0)),
    "huge rewards": random_batch(11, replace(PLAIN, scale=1e300)),
    "tiny rewards": random_batch(12, replace(PLAIN, scale=1e-300)),
    "subnormal rewards": random_batch(13, replace(PLAIN, scale=1e-320)),
    "large float32 rewards": random_batch(14, replace(PLAIN, scale=1e37, dtype=np.float32)),
}
for policy in ("mask", "zero"):
    masked = random_batch(7)
    masked.mask[:] = 0
    masked.columns.update({n: [[]] * 12 for n, c in ap.columns().items() if c.level == "turn"})
    masked.nan_rewards = policy
    ODD[f"all tokens masked, {policy}"] = masked
ODD["absent as zero"] = replace(ODD["some rewards absent"], nan_rewards="zero")


@pytest.mark.parametrize("method", list(ap.methods()))
@pytest.mark.parametrize("name", list(ODD))
def test_finite_or_named(method: str, name: str) -> None:
    card = ap.methods()[method]
    rollouts = ODD[name].rollouts(card)
    for like in (None, *card.presets):
        try:
            credit = ap.credit(method, rollouts, like=like)
        except ap.InputError as error:
            assert "got" in str(error) and "expected" in str(error), f"{like}: {error}"
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = outputs(credit)
        asked = "nan" in card.presets.get(like or "", {}).values()  # as some released code does
        for part, values in found.items():
            finite = np.isfinite(values)
            if asked or part not in ("advantages", "clip_scale", "loss_mask", "tokens"):
                finite |= np.isnan(values)  # beside the credit, NaN says what is absent
            assert finite.all(), f"{like}: {part} {values}"
        masked = ODD[name].mask.reshape(-1) == 0
        keeps = "remask" in {o.name for o in card.options}
        assert asked or keeps or not found["tokens"][masked].any(), (
            f"{like}: credit outside the mask"
        )


def test_absent_rewards_are_counted() -> None:
    batch = ODD["some rewards absent"]
    for method, card in ap.methods().items():
        level = {c.name for c in card.columns if c.required}
        if "outcome_rewards" in level:
            absent = int(np.isnan(batch.columns["outcome_rewards"]).sum())
            counted = ap.credit(method, batch.rollouts(card)).counts["absent"]
            assert counted >= absent > 0, method
