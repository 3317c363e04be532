"""Methods with one score a trajectory against their oracles, on random batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import apportion as ap
from oracles import outcome
from oracles.common import members_by_key
from property_settings import Table, at_first, close, examples, tables

Oracle = Callable[..., Any]

# Method, our options, oracle, its options; NaN scores occur.
PAIRS: list[tuple[str, dict[str, Any], Oracle, dict[str, Any]]] = [
    ("grpo", {}, outcome.grpo, {}),
    ("grpo", {"scale": "none"}, outcome.grpo, {"scale": "none"}),
    ("grpo", {"singleton": "zero"}, outcome.grpo, {"singleton": "zero"}),
    ("grpo", {"ddof": 0}, outcome.grpo, {"scale": "biased"}),
    ("grpo", {"var_floor": 1e-6}, outcome.grpo, {"scale": "floored"}),
    ("rloo", {}, outcome.rloo, {}),
    ("rloo", {"singleton": "zero"}, outcome.rloo, {"singleton": "zero"}),
    ("opo", {}, outcome.opo, {}),
    ("gpg", {}, outcome.gpg, {}),
    ("maxrl", {"like": "skyrl"}, outcome.maxrl, {}),
]


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{p[0]}-{p[1]}" for p in PAIRS])
@given(table=tables(nan=True))
@examples
def test_as_the_oracle(
    pair: tuple[str, dict[str, Any], Oracle, dict[str, Any]], table: Table
) -> None:
    method, options, oracle, theirs = pair
    if method == "maxrl":  # a mean near -eps makes any difference large
        means = [
            np.nanmean(table.scores[m])
            for m in members_by_key(table.ids).values()
            if not np.isnan(table.scores[m]).all()
        ]
        assume(all(abs(mean + 1e-6) > 1e-3 or mean == 0 for mean in means))
    rollouts = ap.Rollouts.from_padded(
        table.mask, group_ids=table.ids, outcome_rewards=table.scores
    )
    credit = ap.credit(method, rollouts, **options)
    got = credit.to_padded()
    want = oracle(at_first(table), table.mask, table.ids, **theirs)
    np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)
    assert credit.counts["absent"] == np.isnan(table.scores).sum()


@given(tables(nan=True))
@examples
def test_grpo_passk(table: Table) -> None:
    rollouts = ap.Rollouts.from_padded(
        table.mask, group_ids=table.ids, outcome_rewards=table.scores
    )
    groups = members_by_key(table.ids).values()
    assume(not any(np.isnan(table.scores[members]).all() for members in groups))
    try:
        want = outcome.grpo_passk(at_first(table), table.mask, table.ids)
    except ValueError:
        with pytest.raises(ap.InputError, match="at least 2"):
            ap.credit("grpo_passk", rollouts)
        return
    close(ap.credit("grpo_passk", rollouts).to_padded(), want)


@given(tables())
@examples
def test_reinforce_pp_baseline(table: Table) -> None:
    rollouts = ap.Rollouts.from_padded(
        table.mask, group_ids=table.ids, outcome_rewards=table.scores
    )
    got = ap.credit("reinforce_pp_baseline", rollouts).to_padded()
    want = outcome.reinforce_pp_baseline(at_first(table), table.mask, table.ids)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@given(tables(), st.sampled_from([None, [1.0, 0.5]]))
@examples
def test_gdpo(table: Table, weights: list[float] | None) -> None:
    matrix = np.stack([table.scores, table.tokens[:, 0]], axis=1)
    rollouts = ap.Rollouts.from_padded(table.mask, group_ids=table.ids, reward_matrix=matrix)
    got = ap.credit("gdpo", rollouts, reward_weights=weights or []).to_padded()
    want = outcome.gdpo(matrix, table.mask, table.ids, weights=weights)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", ["std", "none", "batch"])
@given(st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=12, max_size=12))
@examples
def test_trl(scale: str, cells: list[float]) -> None:
    matrix = np.array(cells).reshape(6, 2)
    rollouts = ap.Rollouts.from_padded(np.ones((6, 1)), group_size=3, reward_matrix=matrix)
    got = ap.credit("grpo", rollouts, like="trl", scale=scale).advantages
    theirs = {"std": "group"}.get(scale, scale)
    close(got, outcome.trl_advantages(matrix, num_generations=3, scale_rewards=theirs))


@given(tables(nan=True, min_rows=1), st.floats(-2, 2), st.floats(0.1, 5))
@examples
def test_grpo_sees_neither_shift_nor_unit(table: Table, shift: float, unit: float) -> None:
    sizes = [len(m) for m in members_by_key(table.ids).values()]
    assume(min(sizes) > 1)

    def credit(scores: np.ndarray) -> np.ndarray:
        rollouts = ap.Rollouts.from_padded(table.mask, group_ids=table.ids, outcome_rewards=scores)
        return ap.credit("grpo", rollouts, eps=0.0, singleton="zero").advantages

    spread = [np.ptp(p) for p in (table.scores[m] for m in members_by_key(table.ids).values())]
    assume(all(s > 1e-2 for s in spread))  # what is smaller, shifting rounds away
    np.testing.assert_allclose(
        credit(table.scores), credit(unit * table.scores + shift), rtol=1e-6, atol=1e-8
    )
