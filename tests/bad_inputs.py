"""A catalogue of wrong input: what is wrong, a call, the error's class, what it must say.

Every message names the argument and the index where there is one, what was got and
what was expected. `test_bad_inputs.py` walks the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import apportion as ap
from apportion import matching, primitives

NAN, INF = float("nan"), float("inf")
MASK = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])  # 2, 1, 1, 1 turns
IDS = ["a", "a", "b", "b"]
SCORES = np.array([1.0, 0.0, 1.0, 1.0])
TURNS = [[0.0, 1.0], [0.5], [1.0], [0.0]]
TOKENS = np.zeros((4, 4))


@dataclass(frozen=True)
class Bad:
    """One wrong input."""

    what: str
    call: Callable[[], Any]
    error: type[Exception]
    says: tuple[str, ...]


def padded(mask: Any = MASK, **given: Any) -> ap.Rollouts:
    return ap.Rollouts.from_padded(mask, **{"group_ids": IDS, "outcome_rewards": SCORES, **given})


def grpo(mask: Any = MASK, **given: Any) -> ap.Credit:
    return ap.credit("grpo", padded(mask, **given))


def ragged(offsets: Any, **given: Any) -> Any:
    given.setdefault("outcome_rewards", np.zeros(max(np.size(offsets) - 1, 0)))
    rows = len(given["outcome_rewards"])
    rollouts = ap.Rollouts.from_ragged(offsets, **{"group_ids": np.zeros(rows, int), **given})
    return ap.credit("grpo", rollouts).advantages


def lists(**turn: Any) -> ap.Rollouts:
    return ap.Rollouts.from_lists([{"group": "g", "outcome": 1.0, "turns": [turn]}])


def gae(**given: Any) -> ap.Credit:
    columns = {"token_rewards": TOKENS, "values": TOKENS, **given}
    return ap.credit("gae", ap.Rollouts.from_padded(MASK, **columns))


def gigpo(**given: Any) -> ap.Credit:
    options = {k: given.pop(k) for k in list(given) if k in ("similarity", "anchor_mask")}
    columns = {"turn_rewards": TURNS, "anchors": [["x", "y"], ["x"], ["x"], ["y"]], **given}
    return ap.credit("gigpo", padded(**columns), **options)


def matchtir(calls: str) -> ap.Credit:
    nothing = [["", ""], [""], [""], [""]]
    given = [[nothing[0][0], calls], *nothing[1:]]
    rollouts = ap.Rollouts.from_padded(MASK, group_ids=IDS, tool_calls=given, gold_calls=[""] * 4)
    return ap.credit("matchtir", rollouts)


def with_threads(count: Any) -> None:
    with ap.num_threads(count):
        pass


def tangled() -> list[Any]:
    """A list that holds itself."""
    own: list[Any] = []
    own.append(own)
    return own


def deep(levels: int) -> Any:
    nested: Any = ()
    for _ in range(levels):
        nested = (nested,)
    return nested


def at(array: np.ndarray, place: Any, value: Any) -> np.ndarray:
    changed = array.astype(np.float64)
    changed[place] = value
    return changed


def masks() -> Iterator[Bad]:
    for value in (2, -1, 255):
        call = lambda value=value: grpo(np.where(MASK, value, 0)).advantages  # noqa: E731
        yield Bad(f"mask of {value}", call, ap.InputError, ("mask[0]", str(value), "0 or 1"))
    for value in (NAN, INF, 0.5):
        call = lambda value=value: grpo(at(MASK, (2, 1), value)).advantages  # noqa: E731
        yield Bad(f"mask of {value}", call, ap.InputError, ("mask[9]", "0 or 1"))
    shapes = [((4,), "(4,)"), ((4, 4, 1), "(4, 4, 1)"), ((), "()")]
    for shape, shown in shapes:
        call = lambda shape=shape: grpo(np.ones(shape))  # noqa: E731
        yield Bad(f"mask of shape {shown}", call, ap.InputError, ("mask: got shape", "(rows, tok"))
    kinds = {
        "strings": np.full((4, 4), "1"),
        "complex": np.ones((4, 4), complex),
        "objects": np.full((4, 4), object()),
        "dates": np.zeros((4, 4), "M8[s]"),
        "records": np.zeros((4, 4), "i4,i4"),
    }
    for kind, mask in kinds.items():
        call = lambda mask=mask: grpo(mask)  # noqa: E731
        yield Bad(f"mask of {kind}", call, ap.DtypeError, ("mask", "got", "expected"))
    yield Bad("mask None", lambda: grpo(None), ap.InputError, ("mask: got", "(rows, tokens)"))
    yield Bad("ragged mask", lambda: grpo([[1, 1], [1]]), ap.InputError, ("mask", "rectangle"))
    yield Bad(
        "mask of 2**62 tokens in one byte of memory",
        lambda: grpo(np.broadcast_to(np.ones(1, np.uint8), (2**31, 2**31))),
        ap.InputError,
        ("mask: got shape (2147483648, 2147483648)", "expected at most"),
    )
    yield Bad(
        "more rows than memory, no token in any",
        lambda: ap.credit("gae", ap.Rollouts.from_padded(np.zeros((2**40, 0)), group_size=1)),
        ap.InputError,
        ("mask: got 1099511627776 rows", "expected at most"),
    )


def groups() -> Iterator[Bad]:
    yield Bad(
        "too few ids", lambda: grpo(group_ids=["a"]), ap.InputError, ("group_ids: got 1", "4")
    )
    yield Bad("too many ids", lambda: grpo(group_ids=[1] * 5), ap.InputError, ("group_ids: got 5",))
    for value in (0.5, None, object(), {}, 1j):
        call = lambda value=value: grpo(group_ids=["a", "a", value, "b"])  # noqa: E731
        yield Bad(f"id {value!r:.20}", call, ap.DtypeError, ("group_ids[2]: got", "expected a str"))
    for value in ("abab", b"abab", 5, {"a": 1}, {"a", "b"}, np.array(3), np.array("a")):
        call = lambda value=value: grpo(group_ids=value)  # noqa: E731
        yield Bad(f"ids {value!r}", call, ap.DtypeError, ("group_ids: got", "expected a list"))
    yield Bad(
        "float array of ids",
        lambda: grpo(group_ids=np.array([0.0, 0.0, 1.0, 1.0])),
        ap.DtypeError,
        ("group_ids[0]: got 0.0", "expected a string"),
    )
    yield Bad(
        "lone surrogate",
        lambda: grpo(group_ids=["a", "\ud800", "b", "b"]),
        ap.InputError,
        ("group_ids[1]: got '\\ud800'", "expected a string of valid Unicode"),
    )
    for what, value in (("a list in itself", tangled()), ("10,000 deep", deep(10_000))):
        call = lambda value=value: grpo(group_ids=["a", "a", "b", value])  # noqa: E731
        yield Bad(f"id of {what}", call, ap.DtypeError, ("group_ids[3]: got", "expected"))
    for size in (3, 0, -2, 8):
        call = lambda size=size: grpo(group_ids=None, group_size=size)  # noqa: E731
        yield Bad(f"group_size {size}", call, ap.InputError, (f"group_size: got {size}", "4 rows"))
    for size in (2.0, "2", True, [2]):
        call = lambda size=size: grpo(group_ids=None, group_size=size)  # noqa: E731
        yield Bad(f"group_size {size!r}", call, ap.InputError, ("group_size: got", "an integer"))
    yield Bad(
        "ids and size", lambda: grpo(group_size=2), ap.InputError, ("group_size: given together",)
    )


def rewards() -> Iterator[Bad]:
    for value in (INF, -INF):
        call = lambda value=value: grpo(outcome_rewards=at(SCORES, 2, value))  # noqa: E731
        yield Bad(f"{value} reward", call, ap.InputError, ("outcome_rewards[2]: got", "NaN for an"))
        call = lambda value=value: gae(token_rewards=at(TOKENS, (3, 1), value))  # noqa: E731
        yield Bad(
            f"{value} token reward", call, ap.InputError, ("token_rewards[13]: got", "finite")
        )
        turns = [TURNS[0], [value], *TURNS[2:]]
        call = lambda turns=turns: gigpo(turn_rewards=turns)  # noqa: E731
        yield Bad(f"{value} turn reward", call, ap.InputError, ("turn_rewards[2]: got", "finite"))
    nan_cases: dict[str, Callable[[], Any]] = {
        "outcome_rewards[1]": lambda: grpo(outcome_rewards=at(SCORES, 1, NAN), nan_rewards="raise"),
        "turn_rewards[3]": lambda: gigpo(
            turn_rewards=[*TURNS[:2], [NAN], TURNS[3]], nan_rewards="raise"
        ),
        "token_rewards[13]": lambda: gae(
            token_rewards=at(TOKENS, (3, 1), NAN), nan_rewards="raise"
        ),
        "reward_matrix[2]": lambda: grpo(
            outcome_rewards=None,
            reward_matrix=at(np.zeros((4, 2)), (1, 0), NAN),
            nan_rewards="raise",
        ),
    }
    for place, call in nan_cases.items():
        yield Bad(
            f"NaN, policy raise, {place}", call, ap.InputError, (place, "got NaN", "expected")
        )
    for value in (NAN, INF):
        call = lambda value=value: gae(values=at(TOKENS, (0, 3), value))  # noqa: E731
        yield Bad(f"{value} in values", call, ap.InputError, ("values[3]: got", "a finite number"))
    for policy in ("ignore", "", None, 1, ["mask"]):
        call = lambda policy=policy: grpo(nan_rewards=policy)  # noqa: E731
        yield Bad(
            f"policy {policy!r}", call, ap.InputError, ("nan_rewards: got", "expected one of")
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
        call = lambda value=value: grpo(outcome_rewards=value)  # noqa: E731
        yield Bad(f"outcome_rewards: {what}", call, ap.InputError, ("outcome_rewards", *says))
    for shape in ((4, 3), (3, 4), (16,), (4, 4, 1)):
        call = lambda shape=shape: gae(values=np.zeros(shape))  # noqa: E731
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
        call = lambda value=value: gigpo(turn_rewards=value)  # noqa: E731
        yield Bad(f"turn_rewards: {what}", call, ap.InputError, ("turn_rewards", *says))
    matrices: dict[str, tuple[Any, tuple[str, ...]]] = {
        "flat": (np.zeros(4), ("got shape (4,)", "(rows, functions)")),
        "no functions": (np.zeros((4, 0)), ("got shape (4, 0)", "(rows, functions)")),
        "a row too few": (np.zeros((3, 2)), ("got 3 values", "expected 4")),
        "infinite": (at(np.zeros((4, 2)), (3, 1), INF), ("[7]: got inf", "finite")),
    }
    for what, (value, says) in matrices.items():
        call = lambda value=value: ap.credit("gdpo", padded(reward_matrix=value))  # noqa: E731
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
        call = lambda text=text: matchtir(text)  # noqa: E731
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
        call = lambda value=value: ragged(value)  # noqa: E731
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
        call = lambda value=value: grpo(turn_spans=value).turn_advantages  # noqa: E731
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
        call = lambda given=given: grpo(**given)  # noqa: E731
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
        call = lambda value=value: ap.Rollouts.from_lists(value)  # noqa: E731
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
        call = lambda turn=turn: lists(**turn)  # noqa: E731
        yield Bad(f"from_lists: {what}", call, ap.InputError, says)


def calls() -> Iterator[Bad]:
    for method in ("GRPO", "", "no_such", "\ud800"):
        call = lambda method=method: ap.credit(method, padded())  # noqa: E731
        yield Bad(f"method {method!r}", call, ap.OptionError, ("method: got", "expected"))
    for method in (None, 5, b"grpo", ["grpo"]):
        call = lambda method=method: ap.credit(method, padded())  # noqa: E731
        yield Bad(f"method {method!r}", call, ap.OptionError, ("method: got", "expected a name"))
    for like in ("nobody", 5, b"verl"):
        call = lambda like=like: ap.credit("grpo", padded(), like=like)  # noqa: E731
        yield Bad(f"like {like!r}", call, ap.OptionError, ("like: got", "expected"))
    for given in (None, 5, {}, MASK):
        call = lambda given=given: ap.credit("grpo", given)  # noqa: E731
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
        call = lambda given=returned: ap.credit(lambda r: given, padded())  # noqa: E731
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

        call = lambda own=own: ap.credit(own, given)  # noqa: E731
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


def tensors() -> Iterator[Bad]:
    """Only where torch is loaded already."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    kinds = {
        "sparse": torch.ones(4, 4).to_sparse(),
        "complex": torch.ones(4, 4, dtype=torch.complex64),
        "on no device": torch.ones(4, 4, device="meta"),
        "float8": torch.ones(4, 4).to(torch.float8_e4m3fn),
    }
    for kind, mask in kinds.items():
        call = lambda mask=mask: grpo(mask)  # noqa: E731
        yield Bad(f"mask: tensor, {kind}", call, ap.DtypeError, ("mask: got a", "expected"))


def catalogue() -> list[Bad]:
    """Every case."""
    parts = (
        masks, groups, rewards, columns, layouts, records, calls, threads, pieces, results, tensors,
    )  # fmt: skip
    return [bad for part in parts for bad in part()]
