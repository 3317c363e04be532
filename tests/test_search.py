"""Asking and telling through the public API: wrong input, faulty evaluators, loops, clocks."""

from __future__ import annotations

import asyncio
import io
import itertools
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import apportion as ap
from apportion import tree_credit
from apportion.errors import DtypeError, InputError, OptionError
from apportion.progress import Bar
from apportion.search.data import KINDS, Nodes
from property_settings import examples

WIDTH = 3
EXPAND = KINDS.index("expand")


def noise(*keys: Any) -> np.random.Generator:
    return np.random.default_rng([int(k) for k in keys])


def answer(leaves: ap.Leaves) -> dict[str, Any]:
    """Answers that hang on the leaf alone."""
    draws = [noise(t, n) for t, n in zip(leaves.tree, leaves.node, strict=True)]
    return {
        "values": [rng.random() for rng in draws],
        "priors": [rng.dirichlet(np.ones(WIDTH)) for rng in draws],
        "tokens": [[[int(n), i] for i in range(WIDTH)] for n in leaves.node],
    }


def conserved(search: ap.Search) -> None:
    nodes = search.nodes()
    assert search.in_flight == 0
    for start, end in zip(nodes.offsets[:-1], nodes.offsets[1:], strict=True):
        visits, parent = nodes.visits[start:end], nodes.parent[start:end]
        below = np.bincount(parent[1:], weights=visits[1:], minlength=end - start)
        inner = nodes.children[start:end] > 0
        np.testing.assert_array_equal(visits[inner], below[inner] + 1)


def same(one: ap.Search, other: ap.Search) -> None:
    a, b = one.nodes(), other.nodes()
    for name in ("offsets", "parent", "visits", "q", "value", "prior"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for x, y in zip(one.tokens(), other.tokens(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_leaves_say_what_is_asked_and_where() -> None:
    search = ap.Search(2, 100)
    roots = search.select(8)
    assert roots.parent.tolist() == roots.action.tolist() == [-1, -1]
    assert [KINDS[k] for k in roots.kind] == ["expand", "expand"]
    assert len(roots.of("expand")) == 2 and len(roots.of("rollout")) == 0
    search.expand(roots, **answer(roots))
    leaves = search.select(8, per_tree=1)
    flat, offsets = leaves.tokens()
    spans = [flat[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert spans == [[0, a] for a in leaves.action]
    assert [path.tolist() for _, path in leaves.paths()] == [[0, n] for n in leaves.node]
    with pytest.raises(InputError, match="kind: got 'guess'"):
        leaves.of("guess")


def test_tokens_and_rollouts_come_back_as_they_were_told() -> None:
    search = ap.Search(1, 100)
    root = search.select(1)
    search.expand(
        root,
        tokens=[[[1, 2], [3]]],
        child_values=[[0.5, -0.5]],
        rollouts=[[1.0, 0.0, 1.0]],
        rollout_tokens=[[[7], [8, 9], []]],
    )
    flat, offsets = search.tokens()
    assert (flat.tolist(), offsets.tolist()) == ([1, 2, 3], [0, 0, 2, 3])
    rollouts = search.rollouts()
    assert rollouts.reward.tolist() == [1.0, 0.0, 1.0]
    assert rollouts.token_offsets.tolist() == [0, 1, 3, 3]
    nodes = search.nodes()
    assert nodes.value[0] == pytest.approx(2 / 3)
    assert nodes.raw_value.tolist()[1:] == [0.5, -0.5]
    nodes_bytes, payload = search.bytes
    assert nodes_bytes > 3 * 40 and payload >= 4 * 6 + 3 * 24
    assert search.log_probs().shape == (3,) and np.isnan(search.log_probs()).all()
    assert np.isnan(rollouts.log_probs).all()
    assert search.child_scores()[1].tolist() == [0, 0, 0, 0]


def test_log_probs_and_scores_lie_beside_tokens_and_come_back() -> None:
    """Of edges and rollouts, told or not; in a search that is resumed too."""
    search = ap.Search(2, 100)
    search.expand(
        search.select(2),
        tokens=[[[1, 2], [3]], [[4]]],
        token_log_probs=[[[-0.5, -2.0], []], [[-0.1]]],
        child_values=[[0.5, 0.0], [1.0]],
        child_scores=[[[0.0, 1.0], []], [[1.0]]],
        rollouts=[[1.0], [0.0]],
        rollout_tokens=[[[7, 8]], [[9]]],
        rollout_log_probs=[[[-0.25, -0.75]], [[-4.0]]],
    )
    log_probs = search.log_probs()
    assert log_probs.dtype == np.float32
    np.testing.assert_array_equal(log_probs, np.float32([-0.5, -2.0, np.nan, -0.1]))
    assert search.rollouts().log_probs.tolist() == [-0.25, -0.75, -4.0]
    scores, offsets = search.child_scores()
    assert (scores.tolist(), offsets.tolist()) == ([0.0, 1.0, 1.0], [0, 0, 2, 2, 2, 3])
    # Packed with the tokens: each log-prob stays with its token.
    tokens, starts = search.tokens()
    packed = tree_credit.pack([-1, 0, 0, -1, 3], starts)
    assert packed.gather(tokens).tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(packed.gather(log_probs), log_probs)


WRONG = {
    "values": ({"values": [0.0, np.nan]}, r"values\[1\]: got NaN"),
    "length": ({"values": [0.0]}, "values: got 1 values, expected 2, the number of leaves"),
    "nothing": ({}, r"values\[0\]: got nothing, expected a value, or rollouts"),
    "shape": ({"values": np.zeros((2, 1))}, r"values: got shape \(2, 1\)"),
    "priors": ({"values": [0, 0], "priors": [[1.0], [-1.0]]}, r"priors\[1\]: got -1.0"),
    "rows": ({"values": [0, 0], "priors": [[1.0]]}, "priors: got 1 rows, expected 2, one for each"),
    "flat priors": ({"values": [0, 0], "priors": [0.5, 0.5]}, r"priors\[0\]: got 0.5, expected a"),
    "flat rollouts": ({"rollouts": [1.0, 0.0]}, r"rollouts\[0\]: got 1.0, expected a list"),
    "flat tokens": ({"values": [0, 0], "tokens": [1, 2]}, r"tokens\[0\]: got 1, expected a list"),
    "no tokens": ({"values": [0, 0], "tokens": [[], None]}, r"tokens\[1\]: got None, expected a"),
    "token": ({"values": [0, 0], "tokens": 5}, "tokens: got 5, expected a list"),
    "rows of tokens": ({"values": [0, 0], "tokens": [[]]}, "tokens: got 1 rows, expected 2"),
    "agree": (
        {"values": [0, 0], "priors": [[1.0], [1.0]], "tokens": [[[1]], [[1], [2]]]},
        r"tokens\[1\]: got 2 entries, expected 1",
    ),
    "tokens": ({"values": [0, 0], "tokens": [[[-1]], [[1]]]}, r"tokens\[0\]: got -1"),
    "children": (
        {"values": [0, 0], "children": [1, -1]},
        r"children\[1\]: got -1, expected an",
    ),
    "many": ({"values": [0, 0], "children": 70_000}, r"children\[0\]: got 70000"),
    "ends": (
        {"values": [0, 0], "child_terminal": [[True], [False]]},
        "child_values.*values of children where some are ends",
    ),
    "rollouts": ({"rollouts": [[1.0], []]}, r"values\[1\]: got nothing"),
    "few log-probs": (
        {"values": [0, 0], "tokens": [[[1, 2]], []], "token_log_probs": [[[-1.0]], []]},
        r"token_log_probs\[0\]: got 1 log-probs, expected 2, one for each token",
    ),
    "log-probs": (
        {"values": [0, 0], "tokens": [[[1]], [[2]]], "token_log_probs": [[[-1.0]], [[np.nan]]]},
        r"token_log_probs\[1\]: got NaN, expected a finite number of at most 0",
    ),
    "positive": (
        {"values": [0, 0], "tokens": [[[1]], []], "token_log_probs": [[[0.5]], []]},
        r"token_log_probs\[0\]: got 0.5, expected a finite number of at most 0",
    ),
    "rows of log-probs": (
        {"values": [0, 0], "tokens": [[[1]], []], "token_log_probs": [[], []]},
        r"token_log_probs\[0\]: got 0 entries, expected 1",
    ),
    "log-probs alone": (
        {"values": [0, 0], "token_log_probs": [[[-1.0]], []]},
        "token_log_probs: got log-probs without `tokens`",
    ),
    "flat log-probs": (
        {"values": [0, 0], "tokens": [[[1]], []], "token_log_probs": [[[[-1.0]]], []]},
        r"token_log_probs\[0\]\[0\]: got shape \(1, 1\), expected one dimension",
    ),
    "scores": (
        {"values": [0, 0], "children": 1, "child_scores": [[[np.inf]], [[]]]},
        r"child_scores\[0\]: got inf, expected a finite number",
    ),
    "loose": ({"values": [0, 0], "rollout_tokens": [[[1]], []]}, "without `rollouts`"),
    "flags": ({"values": [0, 0], "terminal": [2, 0]}, "terminal: expected booleans"),
    "keys": ({"values": [0, 0], "keys": [[0.5], [1.0]]}, r"keys\[0\]: got an array of float64"),
    "mode": ({"values": [0, 0], "on_error": "ignore"}, "on_error: got 'ignore'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_named_and_change_nothing(name: str) -> None:
    search = ap.Search(2, 100)
    leaves = search.select(2)
    given, message = WRONG[name]
    with pytest.raises((InputError, OptionError), match=message):
        search.expand(leaves, **given)
    assert search.in_flight == 2 and len(search.nodes().parent) == 2
    search.expand(leaves, **answer(leaves))
    with pytest.raises(
        InputError, match=r"tickets\[0\]: got ticket 0, answered, failed or cancelled"
    ):
        search.expand(leaves, **answer(leaves))
    with pytest.raises(InputError, match="unknown ticket 99"):
        search.fail([99])
    with pytest.raises(InputError, match=r"tickets\[1\]: got 5 again"):
        search.cancel([5, 5])


OPTIONS = {
    "max_nodes": (0, "max_nodes: got 0"),
    "num_simulations": (2**40, "num_simulations"),
    "max_depth": (2**40, r"max_depth: got 1099511627776, expected an integer below 2\*\*32"),
    "gamma": (0, "gamma: got 0.0"),
    "tell_order": ("random", 'tell_order: got "random", expected one of "ticket", "arrival"'),
    "on_limit": ("ignore", "on_limit"),
    "root_noise": ((1.5, 0.3), "noise_fraction: got 1.5"),
    "widening": ((1.0,), "widening: got .*expected two numbers"),
    "deadline": (-1, "deadline: got -1, expected seconds above 0"),
    "max_seconds": (True, "max_seconds: got True, expected seconds above 0"),
    "max_failures": (0, "max_failures: got 0"),
    "stop_positives": (-1, "stop_positives: got -1"),
    "stop_threshold": (float("nan"), "stop_threshold: got NaN, expected a finite number"),
    "stop_gap": (-0.5, "stop_gap: got -0.5, expected a number of at least 0"),
    "stop_width": (-0.5, "stop_width: got -0.5, expected a number of at least 0"),
    "num_roots": (True, "num_roots: got True"),
    "seed": (2**64, r"seed: got 18446744073709551616, expected a number below 2\*\*63$"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_out_of_range_are_named(name: str) -> None:
    value, message = OPTIONS[name]
    with pytest.raises(OptionError, match=message):
        ap.Search(**{"num_roots": 1, "max_nodes": 10, name: value})


KINDS_OF_THINGS: dict[str, tuple[Callable[[ap.Search], Any], str]] = {
    "rule": (lambda s: ap.Search(1, 9, rule=5), 'option rule: got "5"'),
    "order": (lambda s: s.select(1, order=None), 'got "None"'),
    "finals": (lambda s: s.finals(-1), "tree: got -1, expected an integer from 0 to 1"),
    "bisections": (lambda s: s.bisections(2), "tree: got 2, expected an integer from 0 to 1"),
    "node": (lambda s: s.child_values(0, -1), "node: got -1, expected an integer from 0 to"),
    "how": (lambda s: s.child_values(0, 0, how=[]), r'how: got "\[\]"'),
    "method": (lambda s: s.credit([], value_mode="leaf"), "method: got"),
    "value_mode": (lambda s: s.credit("spo", value_mode=[]), "value_mode: got"),
    "credit": (lambda s: s.pack(None, []), "credit: got NoneType"),
    "evaluate": (lambda s: s.run(lambda _: None), "evaluate: returned NoneType"),
    "trees": (lambda s: ap.Trees.from_search(s).select(3), "trees: got 3"),
    "max_nodes": (lambda s: ap.Trees.from_search(s).to_svg(max_nodes=2.5), "max_nodes: got 2.5"),
    "names": (lambda s: ap.Trees.from_search(s, names=3), "names: got int, expected 2"),
}


@pytest.mark.parametrize("name", KINDS_OF_THINGS)
def test_things_of_another_kind_are_named(name: str) -> None:
    call, message = KINDS_OF_THINGS[name]
    with pytest.raises(ap.ApportionError, match=message):
        call(ap.Search(2, 9))


def test_requests_that_are_not_of_this_search() -> None:
    search, other = ap.Search(2, 100), ap.Search(2, 100)
    leaves, others = search.select(2), other.select(2)
    expand = partial(search.expand, values=[0, 0])
    for call in (search.fail, search.cancel, search.waiting, expand):
        with pytest.raises(InputError, match="leaves: got those of another search"):
            call(others)
        with pytest.raises(InputError, match=r"tickets\[1\]: got -1, expected one from select"):
            call([0, -1])
        for loose in (None, "leaf", {}, [None], [0.5], 2**70):
            words = re.escape(f"tickets: got {loose!r}, expected leaves of `select`, or tickets")
            with pytest.raises(DtypeError, match=words):
                call(loose)
    assert search.in_flight == other.in_flight == 2
    search.expand(others.ticket, **answer(leaves))  # numbers are taken at their word
    for size in (10**30, 2**63, 0, True, 2.0):
        with pytest.raises(InputError, match=r"batch_size: got .*, expected an integer from 1 to"):
            search.select(size)
    assert len(search.select(10**12)) > 0


def test_a_nan_among_log_probs_costs_its_leaf_alone() -> None:
    search = ap.Search(2, 100)
    rollouts = {"rollouts": [[1.0], [0.0]], "rollout_tokens": [[[1]], [[2]]]}
    log_probs = [[[np.nan]], [[-1.0]]]
    search.expand(search.select(2), **rollouts, rollout_log_probs=log_probs, on_error="fail")
    nodes = search.nodes()
    assert nodes.failures.tolist() == [1, 0] and nodes.visits.tolist() == [0, 1]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    def search(**given: Any) -> ap.Search:
        found = ap.Search(rule="puct", **given)
        found.run(answer, batch_size=4)
        return found

    plain = {"num_roots": 2, "max_nodes": 60, "num_simulations": 8, "gamma": 0.5, "seed": 3}
    numpy = {
        name: np.float32(value) if name == "gamma" else np.int64(value)
        for name, value in plain.items()
    }
    same(search(**plain), search(**numpy, deadline=np.float64(60), c_puct=np.float32(1.25)))
    logged = ap.Search(np.int64(2), max_nodes=np.uint16(60))
    logged.log_to(tmp_path)
    logged.run(answer, batch_size=4)
    logged.close()
    same(logged, ap.Search.read(tmp_path))
    ap.Search(1, 10, rule="beam", n=np.int32(2))


def test_keys_may_have_all_64_bits() -> None:
    def run(keys: Any) -> Nodes:
        search = ap.Search(1, 50, num_simulations=6, merge=True)
        search.expand(search.select(1), values=[0.5], keys=keys)
        while leaves := search.select(1):
            search.expand(leaves, values=np.full(len(leaves), 0.25))
        return search.nodes()

    big = 2**63 + 5
    want = run([[-(2**63) + 5, 7, -(2**63) + 5]])
    for keys in ([[big, 7, big]], np.array([[big, 7, big]], dtype=np.uint64)):
        found = run(keys)
        np.testing.assert_array_equal(found.state, want.state)
        assert found.state.tolist() == [0, 1, 2, 1]
    with pytest.raises(InputError, match=r"keys\[0\]\[1\]: got .*, expected an integer of 64 bits"):
        run([[0, 2**64, 0]])


@pytest.mark.filterwarnings("ignore:search.*given up:RuntimeWarning")
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("fault", ["raises", "nan", "short", "none"])
def test_a_faulty_evaluator_costs_visits_but_never_counts(rate: float, fault: str) -> None:
    calls = 0

    def evaluate(leaves: ap.Leaves) -> Any:
        nonlocal calls
        calls += 1
        good = answer(leaves)
        if noise(calls).random() >= rate:
            return good
        if fault == "raises":
            raise RuntimeError("the model is gone")
        if fault == "nan":
            good["values"][-1] = np.nan
            return good
        return None if fault == "none" else {**good, "values": good["values"][:-1]}

    search = ap.Search(20, 1000, num_simulations=30)
    search.run(evaluate, batch_size=10, on_error="fail")
    conserved(search)
    done = search.simulations
    assert (done == 30).all() if rate <= 0.1 else fault == "nan" or (rate < 1) == done.any()
    if rate == 1.0 and fault != "nan":
        with pytest.raises(Exception, match=r"gone|argument|mapping|values"):
            ap.Search(1, 10).run(evaluate)


def test_what_is_cancelled_spends_no_requests() -> None:
    search = ap.Search(1, 10, max_requests=1)
    for _ in range(3):
        leaves = search.select(1)
        assert search.requests.tolist() == [1]
        search.cancel(leaves)
        assert search.requests.tolist() == [0]
    search.run(answer)
    assert search.requests.tolist() == [1]


def test_held_answers_count_for_the_limits() -> None:
    for limit, column, says in [
        ({"max_rollouts": 5}, {}, "rollouts[2]: got 6 rollouts of tree 0"),
        ({"max_tokens": 5}, {"rollout_tokens": [[[1], [2]]]}, "tokens[2]: got 6 tokens of tree 0"),
    ]:
        search = ap.Search(1, 100, on_limit="error", **limit)
        search.expand(search.select(1), values=[0.0], children=4)
        leaves = search.select(4, per_tree=4)
        for i in range(2):
            search.expand(leaves[i], rollouts=[[1.0, 0.0]], **column)
        with pytest.raises(InputError) as raised:
            search.expand(leaves[2], rollouts=[[1.0, 0.0]], **column)
        assert says.replace("[2]", "[0]") in str(raised.value)
        search.cancel(leaves[2:])
        assert len(search.rollouts().reward) == 4


@pytest.mark.parametrize(
    ("limit", "held"), [({"max_rollouts": 3}, 3), ({"max_tokens": 9}, 4), ({"max_tokens": 1}, 0)]
)
def test_rollouts_beyond_a_limit_are_dropped(limit: dict[str, int], held: int) -> None:
    search = ap.Search(1, 100, **limit)
    rewards, log_probs = [[float(i % 2) for i in range(20)]], [[[-1.0] * 2] * 20]
    leaves = search.select(1)
    tokens = [[[i, i] for i in range(20)]]
    search.expand(leaves, rollouts=rewards, rollout_tokens=tokens, rollout_log_probs=log_probs)
    found = search.rollouts()
    assert found.reward.tolist() == rewards[0][:held]
    assert found.tokens.tolist() == [i for i in range(held) for _ in range(2)]
    assert search.nodes().value.tolist() == [0.5], "the value is that of all"
    assert not search.select(1)


CLOSING = ["alphamath", "rstar_math", "rest_mcts", "groundedprm"]  # they visit an end once
ENDING = ["puct", "uct", "muzero", "gumbel", "lightzero", "rstar", *CLOSING]


@pytest.mark.parametrize("rule", [*ENDING, "prorag", "propa"])
def test_a_search_stops_at_an_end_told_as_a_child(rule: str) -> None:
    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        n = len(leaves)
        ends = {"child_values": [[1.0, -1.0]] * n, "child_terminal": [[True, True]] * n}
        return {"values": [0.5] * n, **ends} if leaves.kind[0] == EXPAND else {"values": [0.5] * n}

    search = ap.Search(1, 1000, rule=rule, num_simulations=50, stop_value=1.0)
    search.run(evaluate, batch_size=1)
    assert search.simulations[0] < 5
    search = ap.Search(1, 1000, rule=rule, num_simulations=50, stop_positives=3)
    search.run(evaluate, batch_size=1)
    assert search.simulations[0] > 5 or rule in CLOSING, "an end counts once"


def test_a_rollout_told_by_its_value_is_an_outcome() -> None:
    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        n, seed = len(leaves), int(leaves.ticket[0])
        grows = leaves.kind[0] == EXPAND
        return {"values": [(-1.0) ** seed] * n, "children": 3 if grows else 0}

    search = ap.Search(1, 1000, rule="groundedprm", stop_positives=3, stop_negatives=3)
    search.run(evaluate, batch_size=1)
    assert search.simulations[0] < 900


def test_what_interrupts_an_evaluator_takes_its_leaves_back() -> None:
    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        raise KeyboardInterrupt

    search = ap.Search(3, 10, max_failures=1)
    with pytest.raises(KeyboardInterrupt):
        search.run(evaluate)
    assert search.in_flight == 0 and not search.nodes().failures.any()
    search.run(answer)
    conserved(search)


@examples
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 4), st.sampled_from([None, 1.0]))
def test_order_of_answers_and_size_of_batches_change_nothing(
    key: int, batch: int, per_tree: int, loss: float | None
) -> None:
    options: dict[str, Any] = {"num_simulations": 25, "virtual_loss": loss, "seed": 1}
    one, other = (ap.Search(4, 500, **options) for _ in range(2))
    one.run(answer, batch_size=8, per_tree=per_tree)
    rng, held = noise(key), []
    while True:
        held += list(range(len(leaves := other.select(batch, per_tree=per_tree))))[:0]
        held += [leaves[i] for i in range(len(leaves))]
        if not held:
            break
        rng.shuffle(held)
        for leaf in held[: (count := 1 + int(rng.integers(len(held))))]:
            other.expand(leaf, **answer(leaf))
        held = held[count:]
    same(one, other)


def test_arun_in_ticket_order_equals_run_whatever_the_latency() -> None:
    def evaluate_after(key: int) -> Any:
        rng = noise(key)

        async def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
            await asyncio.sleep(float(rng.random()) * 2e-3)
            return answer(leaves)

        return evaluate

    searches = [ap.Search(6, 300, num_simulations=40, virtual_loss=0.5) for _ in range(3)]
    searches[0].run(answer, batch_size=4, per_tree=2)
    for key, search in enumerate(searches[1:]):
        asyncio.run(search.arun(evaluate_after(key), concurrency=5, batch_size=3, per_tree=2))
        same(searches[0], search)


def test_arrival_order_takes_answers_at_once() -> None:
    search = ap.Search(1, 300, num_simulations=20, tell_order="arrival")
    search.expand(search.select(1), values=[0.0], children=8)
    leaves = search.select(4)
    search.expand(leaves[2:3], values=[1.0], children=8)
    assert search.simulations.tolist() == [1]
    assert len(search.select(4)) == 1, "three of four are still under way"
    search.fail(leaves[:2])


def test_arun_goes_on_after_failures_and_passes_deadlines() -> None:
    async def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        if leaves.ticket[0] % 5 == 1:
            await asyncio.sleep(30)
        if leaves.ticket[0] % 5 == 2:
            raise RuntimeError("no answer")
        return answer(leaves)

    search = ap.Search(4, 300, num_simulations=12, deadline=0.02)
    asyncio.run(search.arun(evaluate, concurrency=4, batch_size=2, per_tree=1, on_error="fail"))
    conserved(search)
    assert search.nodes().failures.sum() > 0
    assert search.simulations.sum() > 0


def test_arun_left_early_takes_everything_back() -> None:
    async def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        await asyncio.sleep(0 if leaves.depth[0] < 2 else 30)
        return answer(leaves)

    async def cut(search: ap.Search) -> None:
        task = asyncio.ensure_future(search.arun(evaluate, concurrency=3, batch_size=2))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    search = ap.Search(4, 300, num_simulations=30)
    asyncio.run(cut(search))
    conserved(search)
    before = search.simulations.sum()
    search.run(answer)
    assert search.simulations.sum() > before
    conserved(search)


def test_an_error_in_arun_is_raised_and_takes_everything_back() -> None:
    async def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        await asyncio.sleep(0)
        raise RuntimeError("the server is gone")

    search = ap.Search(4, 300)
    with pytest.raises(RuntimeError, match="the server is gone"):
        asyncio.run(search.arun(evaluate, concurrency=2, batch_size=1))
    assert search.in_flight == 0


def test_an_evaluator_that_raises_before_it_waits_leaves_nothing_in_flight() -> None:
    def evaluate(leaves: ap.Leaves) -> Any:
        raise RuntimeError("not even asked")

    search = ap.Search(4, 300)
    with pytest.raises(RuntimeError, match="not even asked"):
        asyncio.run(search.arun(evaluate, concurrency=2, batch_size=1))
    assert search.in_flight == 0
    with pytest.warns(RuntimeWarning, match="4 of them with a whole tree: 0, 1, 2, 3; .*not even"):
        asyncio.run(search.arun(evaluate, concurrency=2, batch_size=1, on_error="fail"))
    assert search.in_flight == 0 and search.nodes().failures.tolist() == [16] * 4


def test_a_late_answer_is_refused_and_its_leaf_asked_again() -> None:
    search = ap.Search(2, 50, deadline=0.2)
    leaves = search.select(2)
    time.sleep(0.25)
    again = search.select(2)
    assert again.node.tolist() == [0, 0] and search.nodes().failures.tolist() == [1, 1]
    with pytest.raises(InputError, match="ticket 0, answered, failed or cancelled"):
        search.expand(leaves, **answer(leaves))
    search.expand(again, **answer(again))


def test_an_answer_after_the_deadline_is_refused_without_a_select_between() -> None:
    search = ap.Search(2, 50, deadline=0.01)
    leaves = search.select(2)
    time.sleep(0.02)
    with pytest.raises(InputError, match="ticket 0, answered, failed or cancelled already"):
        search.expand(leaves, **answer(leaves))
    assert not search.waiting(leaves).any() and search.nodes().failures.tolist() == [1, 1]


def test_run_goes_on_after_late_answers() -> None:
    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        time.sleep(0.2 if (leaves.depth > 0).any() else 0)
        return answer(leaves)

    search = ap.Search(2, 50, deadline=0.15)
    why = r"search: 6 nodes were given up \(option max_failures\); .* an answer that came late"
    with pytest.warns(RuntimeWarning, match=why):
        search.run(evaluate, batch_size=2)
    conserved(search)
    assert search.simulations.tolist() == [0, 0]
    assert search.nodes().failures.tolist() == [0, 3, 3, 3] * 2, "each child was given up"


def test_time_runs_out() -> None:
    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        time.sleep(0.005)
        return answer(leaves)

    search = ap.Search(1, 10**6, max_seconds=0.05)
    search.run(evaluate, batch_size=1)
    assert 0 < search.simulations[0] < 20
    conserved(search)


def test_merged_states_are_reported() -> None:
    search = ap.Search(1, 200, merge=True, num_simulations=30)

    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        keys = [[(int(d) + 1) * 10 + i for i in range(WIDTH)] for d in leaves.depth]
        return {"values": np.zeros(len(leaves)), "keys": keys}

    search.run(evaluate, batch_size=1)
    nodes = search.nodes()
    assert (nodes.state != np.arange(len(nodes.state))).any()
    homes = nodes.state[nodes.state != np.arange(len(nodes.state))]
    assert (nodes.state[homes] == homes).all()


def test_a_bar_says_how_far_the_search_is(capsys: pytest.CaptureFixture[str]) -> None:
    search = ap.Search(2, 100, num_simulations=10)
    search.run(answer, progress=True)
    assert "[########################] 20/20 simulations" in capsys.readouterr().err
    stream = io.StringIO()
    bar = Bar("requests", 100, stream)
    bar.update(0)
    bar.update(50, ", 3 in flight", last=True)
    assert "50/100 requests" in stream.getvalue() and "3 in flight" in stream.getvalue()
