"""Wrong answers and options of a search: each is named, and nothing changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.errors import DtypeError, InputError, OptionError
from search_answers import answer

WRONG = {
    "values": ({"values": [0.0, np.nan]}, r"values\[1\]: got NaN"),
    "large": ({"values": [0.0, -1e101]}, r"values\[1\]: got -1e101, expected a finite"),
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
    "virtual_loss": (1e101, "virtual_loss: got 1e101, expected a finite number of at most 1e100"),
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
