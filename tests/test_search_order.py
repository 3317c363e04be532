"""Every rule, with random options and answers: threads, sizes of batches, the order of answers
and a process that is killed change nothing."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.search.data import KINDS

Key = tuple[int, int, int, int]
"""Tree, node, kind, and how often that was asked before: what an answer may depend on."""


def options_of(rule: str, draw: random.Random) -> dict[str, Any]:
    """Options of a search, each left out more often than not."""
    given: dict[str, Any] = {
        "virtual_loss": 1.0,
        "widening": (1.0, 0.5),
        "root_noise": (0.25, 0.3),
        "variance": True,
        "close_terminal": True,
        "solve": 1.0,
        "max_depth": 3,
        "max_tokens": 60,
        "max_rollouts": 20,
        "max_requests": 25,
        "stop_width": 0.5,
        "stop_positives": 3,
        "root_visit": "zero",
        "gamma": 0.9,
    }
    chosen = {name: value for name, value in given.items() if draw.random() < 0.3}
    merges = ap.search_rules()[rule].family == "descent" and draw.random() < 0.5
    try:
        ap.Search(1, 2, rule=rule, merge=merges)
    except ap.OptionError:
        merges = False
    return {"num_simulations": 40, "seed": draw.randrange(9), "merge": merges, **chosen}


def answer(key: Key, want: int) -> dict[str, Any] | None:
    """What one leaf is told; `None` where its evaluation fails."""
    draw = np.random.default_rng(zlib.crc32(repr(key).encode()))
    if draw.random() < 0.1:
        return None
    ran = min(want, 4) if KINDS[key[2]] in ("rollout", "probe") else 0
    count = 0 if ran else min(want, 5) or int(draw.integers(1, 5))
    tokens = [draw.integers(0, 3, draw.integers(1, 6)) for _ in range(ran)]
    return {
        "values": float(np.round(draw.normal(), 1)),
        "rewards": float(draw.integers(0, 2)),
        "terminal": bool(key[1] > 0 and draw.random() < 0.1),
        "priors": draw.dirichlet(np.ones(count)) if count else np.zeros(0),
        "child_values": np.round(draw.normal(size=count), 1),
        "child_terminal": draw.random(count) < 0.2,
        "masked": draw.random(count) < 0.1,
        "tokens": [draw.integers(0, 3, draw.integers(1, 4)) for _ in range(count)],
        "rollouts": draw.integers(0, 2, ran).astype(float),
        "rollout_tokens": tokens,
        "rollout_log_probs": [-draw.random(len(row)) for row in tokens],
    }


def searched(
    rule: str, given: dict[str, Any], roots: int, draw: random.Random | None, log: Path | None
) -> dict[str, Any]:
    """What a search finds; with `draw`, in an order of its own."""
    search = ap.Search(roots, 200, rule=rule, **given)
    if log is not None:
        search.log_to(log)
    asked: dict[tuple[int, int, int], int] = {}
    waiting: dict[int, dict[str, Any] | None] = {}
    while True:
        if log is not None and draw is not None and draw.random() < 0.1:
            search.close()
            search = ap.Search.resume(log)
            again = search.select(2**20, per_tree=5)
            assert set(again.ticket.tolist()) >= set(waiting), "all of them are asked again"
            leaves = again[~np.isin(again.ticket, list(waiting))]
        else:
            size = 2**20 if draw is None else draw.choice([1, 3, 50, 2000])
            leaves = search.select(size, per_tree=5)
        columns = (leaves.ticket, leaves.tree, leaves.node, leaves.kind, leaves.want)
        for ticket, tree, node, kind, want in np.stack(columns, axis=1).tolist():
            asked[tree, node, kind] = nth = asked.get((tree, node, kind), -1) + 1
            waiting[ticket] = answer((tree, node, kind, nth), want)
        tickets = list(waiting)
        if not tickets:
            break
        if draw is not None:
            draw.shuffle(tickets)
            tickets = tickets[: draw.randint(0 if len(leaves) else 1, len(tickets))]
        told = {ticket: waiting.pop(ticket) for ticket in tickets}
        good = {ticket: one for ticket, one in told.items() if one is not None}
        search.fail([ticket for ticket in told if ticket not in good])
        if good:
            names = next(iter(good.values()))
            search.expand(list(good), **{n: [one[n] for one in good.values()] for n in names})
    assert search.in_flight == 0
    search.close()
    (tokens, offsets), (action, policy) = search.tokens(), search.policy()
    found = {**vars(search.nodes()), "tokens": tokens, "token_offsets": offsets}
    found |= {f"rollouts: {name}": column for name, column in vars(search.rollouts()).items()}
    found |= {"action": action, "policy": np.concatenate(policy)}
    found |= {"requests": search.requests, "simulations": search.simulations}
    found["finals"] = np.concatenate([search.finals(tree) for tree in range(min(roots, 9))])
    return {name: np.asarray(column).tobytes() for name, column in found.items()}


@pytest.mark.parametrize("rule", ap.search_rules())
def test_nothing_depends_on_order_threads_or_kills(rule: str, tmp_path: Path) -> None:
    for seed, roots in enumerate([4, 300]):
        draw = random.Random(f"{rule} {seed}")
        given = options_of(rule, draw) | ({"num_simulations": 5} if roots > 9 else {})
        expected = searched(rule, given, roots, None, None)
        log = tmp_path / str(seed) if roots < 9 else None
        threads = ap.get_num_threads()
        try:
            ap.set_num_threads(4)
            found = searched(rule, given, roots, draw, log)
        finally:
            ap.set_num_threads(threads)
        assert found == expected, (given, [n for n in found if found[n] != expected[n]])
