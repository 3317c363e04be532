"""When the trees of a search end: limits, outcomes, time."""

from __future__ import annotations

import time
from typing import Any

import pytest

import apportion as ap
from apportion.errors import InputError
from search_answers import EXPAND, answer, conserved


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


def test_time_runs_out() -> None:
    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        time.sleep(0.005)
        return answer(leaves)

    search = ap.Search(1, 10**6, max_seconds=0.05)
    search.run(evaluate, batch_size=1)
    assert 0 < search.simulations[0] < 20
    conserved(search)
