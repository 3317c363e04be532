"""Wrong masks, ids, rewards and tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import apportion as ap
from bad.base import (
    INF,
    MASK,
    NAN,
    SCORES,
    TOKENS,
    TURNS,
    Bad,
    at,
    deep,
    gae,
    gigpo,
    grpo,
    read,
    tangled,
)


def masks() -> Iterator[Bad]:
    for value in (2, -1, 255):
        call = partial(read, "advantages", grpo, np.where(MASK, value, 0))
        yield Bad(f"mask of {value}", call, ap.InputError, ("mask[0, 0]", str(value), "0 or 1"))
    for value in (NAN, INF, 0.5):
        call = partial(read, "advantages", grpo, at(MASK, (2, 1), value))
        yield Bad(f"mask of {value}", call, ap.InputError, ("mask[2, 1]", "0 or 1"))
    shapes = [((4,), "(4,)"), ((4, 4, 1), "(4, 4, 1)"), ((), "()")]
    for shape, shown in shapes:
        call = partial(grpo, np.ones(shape))
        yield Bad(f"mask of shape {shown}", call, ap.InputError, ("mask: got shape", "(rows, tok"))
    kinds = {
        "strings": np.full((4, 4), "1"),
        "complex": np.ones((4, 4), complex),
        "objects": np.full((4, 4), object()),
        "dates": np.zeros((4, 4), "M8[s]"),
        "records": np.zeros((4, 4), "i4,i4"),
    }
    for kind, mask in kinds.items():
        call = partial(grpo, mask)
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
        call = partial(grpo, group_ids=["a", "a", value, "b"])
        yield Bad(f"id {value!r:.20}", call, ap.DtypeError, ("group_ids[2]: got", "expected a str"))
    for value in ("abab", b"abab", 5, {"a": 1}, {"a", "b"}, np.array(3), np.array("a")):
        call = partial(grpo, group_ids=value)
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
        call = partial(grpo, group_ids=["a", "a", "b", value])
        yield Bad(f"id of {what}", call, ap.DtypeError, ("group_ids[3]: got", "expected"))
    for size in (3, 0, -2, 8):
        call = partial(grpo, group_ids=None, group_size=size)
        yield Bad(f"group_size {size}", call, ap.InputError, (f"group_size: got {size}", "4 rows"))
    for size in (2.0, "2", True, [2]):
        call = partial(grpo, group_ids=None, group_size=size)
        yield Bad(f"group_size {size!r}", call, ap.InputError, ("group_size: got", "an integer"))
    yield Bad(
        "ids and size", lambda: grpo(group_size=2), ap.InputError, ("group_size: given together",)
    )


def rewards() -> Iterator[Bad]:
    for value in (INF, -INF):
        call = partial(grpo, outcome_rewards=at(SCORES, 2, value))
        yield Bad(f"{value} reward", call, ap.InputError, ("outcome_rewards[2]: got", "NaN for an"))
        call = partial(gae, token_rewards=at(TOKENS, (3, 1), value))
        yield Bad(
            f"{value} token reward", call, ap.InputError, ("token_rewards[3, 1]: got", "finite")
        )
        turns = [TURNS[0], [value], *TURNS[2:]]
        call = partial(gigpo, turn_rewards=turns)
        yield Bad(f"{value} turn reward", call, ap.InputError, ("turn_rewards[2]: got", "finite"))
    nan_cases: dict[str, Callable[[], Any]] = {
        "outcome_rewards[1]": lambda: grpo(outcome_rewards=at(SCORES, 1, NAN), nan_rewards="raise"),
        "turn_rewards[3]": lambda: gigpo(
            turn_rewards=[*TURNS[:2], [NAN], TURNS[3]], nan_rewards="raise"
        ),
        "token_rewards[3, 1]": lambda: gae(
            token_rewards=at(TOKENS, (3, 1), NAN), nan_rewards="raise"
        ),
        "reward_matrix[1, 0]": lambda: grpo(
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
        call = partial(gae, values=at(TOKENS, (0, 3), value))
        yield Bad(
            f"{value} in values", call, ap.InputError, ("values[0, 3]: got", "a finite number")
        )
    for policy in ("ignore", "", None, 1, ["mask"]):
        call = partial(grpo, nan_rewards=policy)
        yield Bad(
            f"policy {policy!r}", call, ap.InputError, ("nan_rewards: got", "expected one of")
        )
    yield Bad(
        "policy of values",
        partial(grpo, nan_values="keep"),
        ap.InputError,
        ("nan_values: got 'keep'", "expected one of"),
    )
    yield Bad(
        "infinity, whatever NaN means",
        partial(gae, values=at(TOKENS, (0, 1), INF), nan_values="zero"),
        ap.InputError,
        ("values[0, 1]: got inf", "a finite number"),
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
        call = partial(grpo, mask)
        yield Bad(f"mask: tensor, {kind}", call, ap.DtypeError, ("mask: got a", "expected"))
