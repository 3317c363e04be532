"""Wrong columns, layouts and records."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import apportion as ap
from bad.base import (
    IDS,
    INF,
    SCORES,
    TURNS,
    Bad,
    at,
    gae,
    gdpo,
    gigpo,
    grpo,
    lists,
    matchtir,
    padded,
    ragged,
    read,
)


def columns() -> Iterator[Bad]:
    scores: dict[str, tuple[Any, tuple[str, ...]]] = {
        "too few": (SCORES[:3], ("got 3 values", "expected 4", "trajectories")),
        "too many": (np.zeros(5), ("got 5 values", "expected 4")),
        "none": ([], ("got 0 values", "expected 4")),
        "one number": (1.0, ("got 1 values", "expected 4")),
        "two by two": (np.zeros((2, 2)), ("got shape (2, 2)", "one value for each trajectory")),
        "one row": (np.zeros((1, 4)), ("got shape (1, 4)", "one value for each trajectory")),
        "ragged": ([[1.0], [1.0, 2.0], [1.0], [1.0]], ("different lengths", "expected")),
        "strings": ([1.0, "2", 3.0, 4.0], ("outcome_rewards[1]: got '2'", "a number")),
        "bytes": ([b"1"] * 4, ("outcome_rewards[0]: got b'1'", "expected a number")),
        "complex": (np.ones(4, complex), ("got an array of complex128", "expected numbers")),
        "complex objects": ([None, 1j, 0, 0], ("[1]: got", "expected a")),
        "objects": ([1.0, 2.0, object(), 3.0], ("[2]: got <object", "expected a number or None")),
        "mixed": ([1.0, None, "x", 3.0], ("[2]: got 'x'", "expected a number or None")),
        "beyond float64": ([1.0, 10**400, 0, 0], ("[1]: got a number of 401", "a real number")),
        "dictionary": ({"a": 1.0}, ("got", "expected")),
        "dates": (np.zeros(4, "M8[D]"), ("got an array of datetime64", "expected numbers")),
        "no squares": ([0.0, -1e200, 0.0, 0.0], ("outcome_rewards[1]: got -1", "at most 1e145")),
        "masked array": (np.ma.array(SCORES, mask=[1, 0, 0, 0]), ("masked array", "NaN")),
    }
    for what, (value, says) in scores.items():
        call = partial(grpo, outcome_rewards=value)
        yield Bad(f"outcome_rewards: {what}", call, ap.InputError, ("outcome_rewards", *says))
    for shape in ((4, 3), (3, 4), (16,), (4, 4, 1)):
        call = partial(gae, values=np.zeros(shape))
        yield Bad(
            f"values of shape {shape}",
            call,
            ap.InputError,
            (f"values: got shape {shape}", "(4, 4)"),
        )
    turns: dict[str, tuple[Any, tuple[str, ...]]] = {
        "one too few": ([[0.0], *TURNS[1:]], ("[0]: got 1 values", "expected 2", "turns")),
        "one too many": ([*TURNS[:3], [0.0, 1.0]], ("[3]: got 2 values", "expected 1")),
        "a row missing": (TURNS[:3], ("got 3 rows", "expected 4", "trajectories")),
        "flat, too few": (np.zeros(4), ("got 4 values", "expected 5", "turns")),
        "padded": (np.zeros((4, 2)), ("[1]: got 2 values", "expected 1")),
        "a number": (1.0, ("got 1.0", "expected a list")),
        "an array of no dimensions": (np.array(1.0), ("got a single value", "each turn")),
        "strings": ([[0.0, "b"], [1.0], [1.0], [1.0]], ("turn_rewards[1]: got 'b'", "a number")),
    }
    for what, (value, says) in turns.items():
        call = partial(gigpo, turn_rewards=value)
        yield Bad(f"turn_rewards: {what}", call, ap.InputError, ("turn_rewards", *says))
    matrices: dict[str, tuple[Any, tuple[str, ...]]] = {
        "flat": (np.zeros(4), ("got shape (4,)", "(rows, functions)")),
        "no functions": (np.zeros((4, 0)), ("got shape (4, 0)", "(rows, functions)")),
        "a row too few": (np.zeros((3, 2)), ("got 3 values", "expected 4")),
        "infinite": (at(np.zeros((4, 2)), (3, 1), INF), ("[3, 1]: got inf", "finite")),
    }
    for what, (value, says) in matrices.items():
        call = partial(gdpo, reward_matrix=value)
        yield Bad(f"reward_matrix: {what}", call, ap.InputError, ("reward_matrix", *says))
    yield Bad(
        "weights for other functions",
        lambda: ap.credit("gdpo", padded(reward_matrix=np.zeros((4, 2))), reward_weights=[1.0]),
        ap.InputError,
        ("reward_weights: got 1 values", "expected 2"),
    )
    yield Bad("unknown column", lambda: grpo(scores=SCORES), ap.InputError, ("'scores'", "one of"))
    yield Bad(
        "missing column",
        lambda: ap.credit("gigpo", padded()),
        ap.MissingColumnError,
        ("gigpo", '"turn_rewards" (turn level)', "got only: group_ids, outcome_rewards"),
    )
    yield Bad(
        "anchors that are numbers, compared by likeness",
        lambda: gigpo(anchors=[[1, 2], [1], [1], [2]], similarity="indel"),
        ap.InputError,
        ("anchors: got integers", "expected strings"),
    )
    calls = {
        "not JSON": ("{", "EOF"),
        "not a list": ('{"name": "f"}', "an object instead of a list"),
        "no name": ('[{"arguments": {}}]', "a call without a name"),
        "no arguments": ('[{"name": "f"}]', "no arguments"),
        "arguments of another kind": ('[{"name": "f", "arguments": 3}]', "a number as the arg"),
        "too deep": ("[" * 100_000, "recursion limit"),
        "NaN": ('[{"name": "f", "arguments": {"x": NaN}}]', "expected value"),
    }
    for what, (text, said) in calls.items():
        call = partial(matchtir, text)
        yield Bad(f"tool_calls: {what}", call, ap.InputError, ("tool_calls[1]: got", said, "JSON"))
    yield Bad(
        "tool_calls that are dictionaries",
        lambda: matchtir({"name": "f"}),  # type: ignore[arg-type]
        ap.DtypeError,
        ("tool_calls[1]: got {'name': 'f'}", "expected a string"),
    )


def layouts() -> Iterator[Bad]:
    offsets: dict[str, tuple[Any, tuple[str, ...]]] = {
        "empty": ([], ("got shape (0,)", "(rows + 1,)")),
        "a matrix": ([[0, 1], [1, 2]], ("got shape (2, 2)", "(rows + 1,)")),
        "first is 1": ([1, 2], ("[0]: got 1", "expected 0")),
        "first is negative": ([-1, 2], ("[0]: got -1", "expected 0")),
        "falling": ([0, 3, 2], ("[2]: got 2", "expected at least 3")),
        "negative": ([0, -5], ("[1]: got -5", "expected at least 0")),
        "2**62 tokens": ([0, 2**62], ("got 4611686018427387904", "expected at most")),
        "2**39 tokens": ([0, 2**39], ("bytes", "more than there are free")),
        "beyond int64": (np.array([0, 2**63], np.uint64), ("got 9223372036854775808", "2**63")),
        "beyond uint64": ([0, 2**70], ("got", "expected integers")),
        "floats": ([0.0, 2.0], ("got an array of float64", "expected integers")),
        "strings": (["0", "2"], ("token_offsets[0]: got '0'", "expected a number")),
    }
    for what, (value, says) in offsets.items():
        call = partial(ragged, value)
        word = "rollouts" if "free" in says[-1] else "token"
        yield Bad(f"token_offsets: {what}", call, ap.InputError, (word, *says))
    yield Bad(
        "offsets beyond the mask",
        lambda: ragged([0, 3], mask=[1, 1]),
        ap.InputError,
        ("token_offsets[1]: got 3", "expected 2, the length of the flat array"),
    )
    yield Bad(
        "padded mask in a ragged batch",
        lambda: ragged([0, 2], mask=[[1, 1]]),
        ap.InputError,
        ("mask: got shape (1, 2)", "(tokens,)"),
    )
    spans: dict[str, tuple[Any, tuple[str, ...]]] = {
        "too few rows": ([[(0, 1)]], ("turn_spans: got 1 rows", "expected 4")),
        "a number": (3, ("turn_spans: got 3", "expected a list")),
        "a string": ("abcd", ("turn_spans: got 'abcd'", "expected a list")),
        "triples": ([[(0, 1, 2)], [], [], []], ("turn_spans[0]: got shape (1, 3)", "(turns, 2)")),
        "beyond the row": ([[(0, 9)], [], [], []], ("turn_spans[0]: got (0, 9)", "0..4")),
        "overlapping": ([[(0, 2), (1, 3)], [], [], []], ("turn_spans[1]: got (1, 3)", "2..4")),
        "backwards": ([[], [(3, 1)], [], []], ("turn_spans[0]: got (7, 5)", "start <= end")),
        "negative": ([[], [(-1, 1)], [], []], ("turn_spans[1][0]: got -1", "a position")),
        "huge": ([[], [], [(0, 2**62)], []], ("turn_spans[2][0]: got 46116", "a position")),
        "floats": ([[(0.0, 1.0)], [], [], []], ("turn_spans[0]: got an array of float64", "integ")),
    }
    for what, (value, says) in spans.items():
        call = partial(read, "turn_advantages", grpo, turn_spans=value)
        yield Bad(f"turn_spans: {what}", call, ap.InputError, says)
    steps: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "too few ids": ({"trajectory_ids": [1, 2]}, ("trajectory_ids: got 2", "expected 4")),
        "float ids": ({"trajectory_ids": [0.5] * 4}, ("trajectory_ids[0]: got 0.5", "expected")),
        "one id": ({"trajectory_ids": "x"}, ("trajectory_ids: got 'x'", "expected a list")),
        "index alone": ({"turn_index": [0] * 4}, ("turn_index: given without trajectory_ids",)),
        "too few numbers": (
            {"trajectory_ids": IDS, "turn_index": [0]},
            ("turn_index: got 1", "expected 4"),
        ),
        "numbers that are floats": (
            {"trajectory_ids": IDS, "turn_index": [0.5] * 4},
            ("turn_index: got an array of float64", "expected integers"),
        ),
    }
    for what, (given, says) in steps.items():
        call = partial(grpo, **given)
        yield Bad(f"step rows: {what}", call, ap.InputError, says)


def records() -> Iterator[Bad]:
    whole: dict[str, tuple[Any, tuple[str, ...]]] = {
        "a number": (5, ("trajectories: got 5", "expected")),
        "a dictionary": ({"group": 1}, ("trajectories", "got", "expected")),
        "not dictionaries": ([1], ("trajectories[0]: got int", "expected an object")),
        "no group": ([{"outcome": 1.0, "turns": []}], ("trajectories[0]: no field 'group'", "got")),
        "no turns": ([{"group": 1, "outcome": 1.0}], ("trajectories[0]: no field 'turns'", "got")),
        "turns of text": (
            [{"group": 1, "outcome": 1.0, "turns": "x"}],
            ("trajectories[0].turns: got str", "expected a list"),
        ),
        "outcome of text": (
            [{"group": 1, "outcome": "good", "turns": []}],
            ("outcome_rewards[0]: got 'good'", "expected a number"),
        ),
    }
    for what, (value, says) in whole.items():
        call = partial(ap.Rollouts.from_lists, value)
        yield Bad(f"from_lists: {what}", call, ap.InputError, says)
    turns: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "neither text nor tokens": ({"reward": 1.0}, ("turns[0]: expected", "text or tokens")),
        "tokens are a number": ({"tokens": 5}, ("turns[0].tokens: got", "expected")),
        "tokens are a string": ({"tokens": "abc"}, ("turns[0].tokens: got", "expected")),
        "too few log-probs": (
            {"tokens": [1, 2], "log_probs": [0.0]},
            ("turns[0].log_probs: got 1 values", "expected 2"),
        ),
        "log-probs are a number": (
            {"tokens": [1], "log_probs": 0.5},
            ("turns[0].log_probs: got", "expected"),
        ),
        "log-probs of text": (
            {"tokens": [1, 2], "log_probs": [0.0, "a"]},
            ("turns[0].log_probs[1]: got 'a'", "expected a number"),
        ),
        "reward of text": (
            {"text": "x", "reward": "good"},
            ("turn_rewards[0]: got 'good'", "expected a number"),
        ),
    }
    for what, (turn, says) in turns.items():
        call = partial(lists, **turn)
        yield Bad(f"from_lists: {what}", call, ap.InputError, says)
