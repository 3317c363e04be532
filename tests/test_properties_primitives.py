"""Every primitive against a naive re-computation, on random input."""

from __future__ import annotations

import difflib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rapidfuzz.distance import Indel

from apportion import matching, primitives
from oracles import matching as naive_matching
from oracles.common import discounted_suffix_sums, masked_whiten, members_by_key
from oracles.common import group_normalise as naive_normalise
from oracles.common import runs as naive_runs
from oracles.token import openrlhf_reward, whiten_openrlhf
from property_settings import Table, absent, close, examples, few_ids, scores, tables

ids_of_any_kind = (
    few_ids
    | st.integers(-(2**80), 2**80)
    | st.text(max_size=2)
    | st.binary(max_size=2)
    | st.tuples(few_ids, st.text(max_size=1))
)


@given(st.lists(ids_of_any_kind, max_size=20))
@examples
def test_group(ids: list[Any]) -> None:
    first = {key: number for number, key in enumerate(members_by_key(ids))}
    assert primitives.group(ids).tolist() == [first[key] for key in ids]


@given(st.lists(st.tuples(few_ids, st.sampled_from("ab")), max_size=20))
@examples
def test_composite_group(pairs: list[tuple[int, str]]) -> None:
    whole = primitives.group(pairs)
    parts = primitives.group([a for a, _ in pairs], [b for _, b in pairs])
    assert whole.tolist() == parts.tolist()


# Our rule by the oracle's name of it.
SCALES: dict[str, dict[str, Any]] = {
    "none": {"scale": "none"},
    "std": {"scale": "std"},
    "biased": {"scale": "std", "ddof": 0},
    "biased_padded": {"scale": "std", "ddof": 0, "var_eps": 1e-8},
    "floored": {"scale": "std", "var_floor": 1e-3, "eps": 1e-3},
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("singleton", ["raw", "zero"])
@given(st.lists(st.tuples(scores | absent, few_ids), max_size=12))
@examples
def test_group_normalise(scale: str, singleton: str, items: list[tuple[float, int]]) -> None:
    values, ids = [v for v, _ in items], [i for _, i in items]
    rule = {"eps": 1e-6, **SCALES[scale]}
    got = primitives.group_normalise(values, ids, singleton=singleton, **rule)
    close(got, naive_normalise(values, ids, scale=scale, eps=rule["eps"], singleton=singleton))


def naive_centre(centre: str, group: np.ndarray, place: int) -> float:
    ordered = np.sort(group)
    return {
        "mean": group.mean(),
        "median": np.median(group),
        "lower_median": ordered[(len(group) - 1) // 2],
        "leave_one_out": np.delete(group, place).mean(),
        "none": 0.0,
    }[centre]


@pytest.mark.parametrize("centre", ["mean", "median", "lower_median", "leave_one_out", "none"])
@pytest.mark.parametrize("scale", ["none", "mad", "batch", "leave_one_out_std"])
@given(st.lists(scores, min_size=2, max_size=9))
@examples
def test_centres_and_scales(centre: str, scale: str, values: list[float]) -> None:
    group = np.array(values)
    assume(scale != "leave_one_out_std" or len(values) > 2)
    got = primitives.group_normalise(values, [0] * len(values), centre=centre, scale=scale)
    if max(values) == min(values):
        assert centre == "none" or not got.any()
        return
    for place, value in enumerate(group):
        middle = naive_centre(centre, group, place)
        low = "lower_median" if centre == "lower_median" else "median"
        away = np.abs(group - naive_centre(low, group, place))
        others = np.delete(group, place)
        spread = {
            "none": None,
            "mad": 1.4826 * naive_centre(low, away, place),
            "batch": group.std(ddof=1),
            "leave_one_out_std": 0.0 if np.ptp(others) == 0 else others.std(ddof=1),
        }[scale]
        want = value - middle
        if spread is not None:
            want = 0.0 if spread == 0 else want / (spread + 1e-6)
        close(got[place], want)


@given(st.lists(st.tuples(scores, st.integers(1, 3)), min_size=1, max_size=6))
@examples
def test_counts_are_as_if_repeated(items: list[tuple[float, int]]) -> None:
    values, counts = [v for v, _ in items], [n for _, n in items]
    repeated = [v for v, n in items for _ in range(n)]
    assume(len(repeated) > 1)
    got = primitives.group_normalise(values, [0] * len(values), weights=counts)
    want = primitives.group_normalise(repeated, [0] * len(repeated))
    close(np.repeat(got, counts), want)


@given(st.lists(st.tuples(scores, few_ids, st.booleans()), max_size=10))
@examples
def test_excluded_is_absent(items: list[tuple[float, int, bool]]) -> None:
    values, ids, include = (list(part) for part in zip(*items, strict=True)) if items else ([],) * 3
    nan = [v if keep else math.nan for v, keep in zip(values, include, strict=True)]
    got = primitives.group_normalise(values, ids, include=include)
    assert got.tolist() == primitives.group_normalise(nan, ids).tolist()


@given(tables())
@examples
def test_runs(table: Table) -> None:
    offsets, spans = primitives.runs(table.mask)
    want = [naive_runs(row) for row in table.mask]
    assert offsets.tolist() == np.cumsum([0, *map(len, want)]).tolist()
    assert [tuple(span) for span in spans] == [span for row in want for span in row]


@pytest.mark.parametrize("remask", [False, True])
@given(tables())
@examples
def test_whiten(remask: bool, table: Table) -> None:
    got = primitives.whiten(table.tokens, table.mask, remask=remask)
    want = masked_whiten(table.tokens, table.mask)
    trained = table.tokens[table.mask == 1]
    if len(trained) and np.ptp(trained) == 0 and not remask:
        got, want = got[table.mask == 1], want[table.mask == 1]  # elsewhere rules differ
    close(got, want * table.mask if remask else want)


@given(tables(min_rows=1))
@examples
def test_whiten_as_openrlhf(table: Table) -> None:
    trained = table.tokens[table.mask == 1]
    assume(len(trained) > 0 and np.ptp(trained) > 0)
    rule = {"ddof": 0, "eps": 0, "var_floor": 1e-8, "mean_eps": 0}
    got = primitives.whiten(table.tokens, table.mask, remask=False, **rule)
    close(got, whiten_openrlhf(table.tokens, table.mask))


@pytest.mark.parametrize("clip", [None, (-0.5, 1.0)])
@given(tables(), st.sampled_from([0.0, 0.1, -1.0]))
@examples
def test_shape_rewards(clip: tuple[float, float] | None, table: Table, kl_coef: float) -> None:
    got = primitives.shape_rewards(
        table.scores, table.mask, kl=table.values, kl_coef=kl_coef, clip=clip
    )
    want = openrlhf_reward(
        table.scores, table.values, table.mask, kl_coef=kl_coef, reward_clip_range=clip
    )
    close(got, want)


@given(st.lists(st.lists(scores, max_size=9), max_size=4), st.sampled_from([0.0, 0.9, 1.0]))
@examples
def test_accumulate(rows: list[list[float]], gamma: float) -> None:
    flat = [value for row in rows for value in row]
    offsets = np.cumsum([0, *map(len, rows)])
    got = primitives.accumulate(flat, offsets, gamma=gamma)
    close(got, [g for row in rows for g in discounted_suffix_sums(row, gamma)])
    lowest = primitives.accumulate(flat, offsets, how="min")
    assert lowest.tolist() == [min(row[k:]) for row in rows for k in range(len(row))]
    root = primitives.accumulate(flat, offsets, how="root")
    close(root, [v / math.sqrt(len(row) - k) for row in rows for k, v in enumerate(row)])


texts = st.text("abc é😀", max_size=40) | st.text("ab", min_size=200, max_size=260)


@given(texts, texts)
@examples
def test_text_similarity(a: str, b: str) -> None:
    # theirs is 1 - distance, which rounds once more
    assert abs(matching.text_similarity(a, b) - Indel.normalized_similarity(a, b)) < 1e-15
    ratio = difflib.SequenceMatcher(None, a, b).ratio()
    assert matching.text_similarity(a, b, how="difflib") == ratio


matrices = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(-2, 5).map(lambda n: n / 4), min_size=width, max_size=width),
        min_size=1,
        max_size=5,
    )
)


@given(matrices)
@examples
def test_match(matrix: list[list[float]]) -> None:
    greedy = [-1 if g is None else g for g in naive_matching.greedy_assignment(matrix)]
    assert matching.match(matrix, how="greedy").tolist() == greedy
    found = matching.match(matrix)
    total = sum(row[c] for row, c in zip(matrix, found, strict=True) if c >= 0)
    assert total == pytest.approx(naive_matching.optimal_total(matrix), abs=1e-12)
    taken = [c for c in found if c >= 0]
    assert len(set(taken)) == len(taken) == min(np.shape(matrix))
    plan = matching.match(matrix, how="sinkhorn", reg=0.5)
    close((plan * matrix).sum(axis=1), naive_matching.sinkhorn_rewards(matrix, reg=0.5))


arguments = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.sampled_from([1, 1.0, True, "1", None, [1, {"k": 0}]])
)
tool_calls = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["f", "F", "g"]), "arguments": arguments}),
    max_size=3,
)


@given(tool_calls, tool_calls)
@examples
def test_tool_similarity(calls: list[Any], gold: list[Any]) -> None:
    close(matching.tool_similarity(calls, gold), naive_matching.similarity_matrix(calls, gold))
