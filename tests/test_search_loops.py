"""The loops around ask and tell: faulty evaluators, interruptions, concurrency, clocks."""

from __future__ import annotations

import asyncio
import io
import time
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.errors import InputError
from apportion.progress import Bar
from search_answers import answer, conserved, noise, same


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


def test_what_interrupts_an_evaluator_takes_its_leaves_back() -> None:
    def evaluate(leaves: ap.Leaves) -> dict[str, Any]:
        raise KeyboardInterrupt

    search = ap.Search(3, 10, max_failures=1)
    with pytest.raises(KeyboardInterrupt):
        search.run(evaluate)
    assert search.in_flight == 0 and not search.nodes().failures.any()
    search.run(answer)
    conserved(search)


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


def test_a_bar_says_how_far_the_search_is(capsys: pytest.CaptureFixture[str]) -> None:
    search = ap.Search(2, 100, num_simulations=10)
    search.run(answer, progress=True)
    assert "[########################] 20/20 simulations" in capsys.readouterr().err
    stream = io.StringIO()
    bar = Bar("requests", 100, stream)
    bar.update(0)
    bar.update(50, ", 3 in flight", last=True)
    assert "50/100 requests" in stream.getvalue() and "3 in flight" in stream.getvalue()
