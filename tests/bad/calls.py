"""Wrong calls, thread counts, arguments of primitives, and results of the user's functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import apportion as ap
from apportion import matching, primitives
from bad.base import INF, MASK, NAN, SCORES, TOKENS, Bad, at, grpo, padded, tangled


def with_threads(count: Any) -> None:
    with ap.num_threads(count):
        pass


def calls() -> Iterator[Bad]:
    for method in ("GRPO", "", "no_such", "\ud800"):
        call = partial(ap.credit, method, padded())
        yield Bad(f"method {method!r}", call, ap.OptionError, ("method: got", "expected"))
    for method in (None, 5, b"grpo", ["grpo"]):
        call = partial(ap.credit, method, padded())
        yield Bad(f"method {method!r}", call, ap.OptionError, ("method: got", "expected a name"))
    for like in ("nobody", 5, b"verl"):
        call = partial(ap.credit, "grpo", padded(), like=like)
        yield Bad(f"like {like!r}", call, ap.OptionError, ("like: got", "expected"))
    for given in (None, 5, {}, MASK):
        call = partial(ap.credit, "grpo", given)
        yield Bad(f"rollouts {given!r:.8}", call, ap.InputError, ("rollouts: got", "Rollouts"))
    yield Bad(
        "a group of one where two are needed",
        lambda: ap.credit("grpo_passk", padded(group_ids=["a", "a", "b", "c"])),
        ap.InputError,
        ("group_ids[2]: got a group of 1", "expected at least 2"),
    )
    yield Bad(
        "preset of a function",
        lambda: ap.credit(lambda r: SCORES, padded(), like="verl"),
        ap.InputError,
        ("like: got", "no presets"),
    )
    for returned in (np.zeros(3), "x", None, [[0.0], [1.0, 2.0]]):
        call = partial(ap.credit, lambda r, given=returned: given, padded())
        yield Bad(
            f"function returns {returned!r:.12}", call, ap.InputError, ("<lambda>", "expected")
        )
    yield Bad(
        "unknown part", lambda: grpo().tokens("advantage"), ap.InputError, ("advantage", "one of")
    )
    yield Bad(
        "unknown dtype", lambda: grpo().tokens(dtype="int8"), ap.DtypeError, ("dtype: got 'int8'",)
    )
    yield Bad(
        "no padded shape",
        lambda: ap.credit(
            "grpo", ap.Rollouts.from_ragged([0, 1], group_ids=[0], outcome_rewards=[1.0])
        ).to_padded(),
        ap.InputError,
        ("to_padded", "ragged"),
    )


def threads() -> Iterator[Bad]:
    for count in (0, -1, 4097, 1.5, "two", "", None, True, [1], NAN, 2**70):
        for name, call in (("set", ap.set_num_threads), ("with", with_threads)):
            yield Bad(
                f"{name} {count!r} threads",
                lambda call=call, count=count: call(count),
                ap.InputError,
                ("count: got", "expected an integer from 1 to 4096"),
            )


def pieces() -> Iterator[Bad]:
    normalise, whiten = primitives.group_normalise, primitives.whiten
    ones, ids = np.ones(3), [0, 0, 1]
    table: list[tuple[str, Callable[[], Any], tuple[str, ...]]] = [
        ("no ids", lambda: primitives.group(), ("ids: got none", "expected")),
        ("ids of two lengths", lambda: primitives.group([1], [1, 2]), ("ids: got 2", "expected 1")),
        ("values and ids", lambda: normalise(ones, [1]), ("ids: got 1", "expected 3")),
        ("infinite", lambda: normalise([1.0, INF, 0], ids), ("values[1]: got inf", "expected")),
        (
            "matrix",
            lambda: normalise(np.ones((3, 1)), ids),
            ("values: got shape (3, 1)", "one dim"),
        ),
        (
            "negative weight",
            lambda: normalise(ones, ids, weights=[1, -1, 1]),
            ("weights[1]: got -1.0", "expected at least 0"),
        ),
        (
            "NaN weight",
            lambda: normalise(ones, ids, weights=[1, NAN, 1]),
            ("weights[1]: got nan", "expected a finite number"),
        ),
        (
            "weighting",
            lambda: normalise(ones, ids, weights=ones, weighting="x"),
            ("weighting: got 'x'", "expected"),
        ),
        ("include", lambda: normalise(ones, ids, include=[True]), ("include: got 1", "expected 3")),
        ("rule", lambda: normalise(ones, ids, center="mean"), ("center", "expected one of centre")),
        ("centre", lambda: normalise(ones, ids, centre="x"), ('option centre: got "x"', "one of")),
        ("ddof", lambda: normalise(ones, ids, ddof=-1), ("option ddof: got -1", "at least 0")),
        ("shape", lambda: whiten(np.ones((2, 2)), MASK), ("values: got shape (2, 2)", "(4, 4)")),
        ("NaN", lambda: whiten(at(TOKENS, (0, 1), NAN), MASK), ("values[1]: got NaN", "finite")),
        ("eps", lambda: whiten(TOKENS, MASK, eps="x"), ('option eps: got "x"', "expected")),
        (
            "how",
            lambda: primitives.accumulate(ones, how="max"),
            ('how: got "max"', "expected"),
        ),
        ("gamma", lambda: primitives.accumulate(ones, gamma="x"), ("gamma: got 'x'", "expected")),
        ("gamma", lambda: primitives.accumulate(ones, gamma=NAN), ("gamma: got nan", "expected")),
        (
            "offsets",
            lambda: primitives.accumulate(ones, [0, 2]),
            ("offsets[1]: got 2", "expected 3"),
        ),
        (
            "offsets",
            lambda: primitives.accumulate(ones, [[0, 3]]),
            ("offsets: got shape (1, 2)", "expected"),
        ),
        (
            "scores",
            lambda: primitives.shape_rewards(np.ones(3), MASK),
            ("scores: got 3", "expected 4"),
        ),
        (
            "clip",
            lambda: primitives.shape_rewards(SCORES, MASK, clip=(2, 1)),
            ("clip: got (2, 1)", "(smallest, largest)"),
        ),
        (
            "kl",
            lambda: primitives.shape_rewards(SCORES, MASK, kl=np.ones((4, 3))),
            ("kl: got shape (4, 3)", "expected (4, 4)"),
        ),
        (
            "clip of text",
            lambda: primitives.shape_rewards(SCORES, MASK, clip=(0, "a")),
            ("clip[1]: got 'a'", "expected a number"),
        ),
        (
            "kl NaN",
            lambda: primitives.shape_rewards(SCORES, MASK, kl=at(MASK, (0, 1), NAN), kl_coef=0.1),
            ("kl[1]: got nan", "expected a finite number"),
        ),
        (
            "include of text",
            lambda: primitives.group_normalise(ones, ids, include=["a", "b", "c"]),
            ("include[0]: got 'a'", "expected a number"),
        ),
        ("runs", lambda: primitives.runs([1, 0]), ("mask: got shape (2,)", "(rows, tokens)")),
        ("match", lambda: matching.match(ones), ("scores: got shape (3,)", "two dimensions")),
        ("match NaN", lambda: matching.match([[NAN]]), ("scores[0]: got NaN", "finite")),
        ("match how", lambda: matching.match([[1.0]], how="x"), ("how: got 'x'", "expected")),
        ("match reg", lambda: matching.match([[1.0]], how="sinkhorn", reg="x"), ("reg: got 'x'",)),
        ("text", lambda: matching.text_similarity("a", b"a"), ("b: got b'a'", "expected a string")),
        ("text None", lambda: matching.text_similarity(None, ""), ("a: got None", "a string")),
        ("command", lambda: matching.shell_signature(["ls"]), ("command: got ['ls']", "a string")),
        ("a set", lambda: matching.tool_similarity([{1}], "[]"), ("calls: got", "JSON can hold")),
        ("itself", lambda: matching.tool_similarity("[]", tangled()), ("gold: got", "JSON")),
        (
            "linkage of a row",
            lambda: matching.single_linkage([[0.0, 1.0]], 1),
            ("distance: got shape (1, 2)", "(items, items)"),
        ),
        (
            "clusters",
            lambda: matching.single_linkage([[0.0]], 0.5),
            ("clusters: got 0.5", "an integer of at least 1"),
        ),
        ("tools", lambda: matching.tool_similarity("{", "[]"), ("calls: got", "expected")),
    ]
    for what, call, says in table:
        yield Bad(f"primitives: {what}", call, ap.InputError, says)


def results() -> Iterator[Bad]:
    """What a function of the user's gives back, and results in the wrong place."""
    given = padded()
    table: list[tuple[str, Any, tuple[str, ...]]] = [
        ("None", None, ("own: returned None", "expected an array")),
        ("text", ["a", 1.0, 1.0, 1.0], ("own[0]: got 'a'", "expected a number")),
        ("NaN", [0.0, NAN, 0.0, 0.0], ("own: returned nan at index 1", "finite")),
        ("infinity", [0.0, 0.0, INF, 0.0], ("own: returned inf at index 2", "finite")),
        ("no level's length", [0.0] * 7, ("own: returned 7 values", "'turn': 5")),
    ]
    for what, value, says in table:

        def own(_: ap.Rollouts, value: Any = value) -> Any:
            return value

        call = partial(ap.credit, own, given)
        yield Bad(f"function returning {what}", call, ap.InputError, says)
    yield Bad(
        "rollouts in place of credit",
        lambda: ap.write_credit("never.jsonl", given),  # type: ignore[arg-type]
        ap.DtypeError,
        ("credit: got Rollouts", "expected apportion.Credit"),
    )
    yield Bad(
        "report of credit in place of rollouts",
        lambda: ap.write_report("never.html", grpo(), [grpo()]),  # type: ignore[arg-type]
        ap.InputError,
        ("rollouts: got Credit", "expected apportion.Rollouts"),
    )
