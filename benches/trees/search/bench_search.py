"""The search engine through its public API: rates against their goals. NumPy alone.

Answers are looked up in a table by NumPy, which is part of the time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from forests import searched, table

import apportion as ap

MILLION = 1e6


def nodes_and_bytes(search: ap.Search) -> str:
    count = int(search.nodes().offsets[-1])
    return f"{search.bytes[0] / count:.0f} bytes a node"


@pytest.mark.parametrize(("children", "goal"), [(8, 2 * MILLION), (32, 0.4 * MILLION)])
@pytest.mark.parametrize("per_tree", [8, 1])
def bench_many_trees(
    compare: Callable[..., None], children: int, goal: float, per_tree: int, quick: bool
) -> None:
    if quick and per_tree == 1:
        pytest.skip("quick")
    answers, trees, simulations = table(children), 256, 800
    size = nodes_and_bytes(searched(answers, 8, simulations, per_tree, 64))
    compare(
        f"256 trees x 800 x {children} children, {per_tree} under way ({size})",
        f"goal of {goal / MILLION:g} M simulations/s",
        lambda: searched(answers, trees, simulations, per_tree, per_tree * trees),
        None,
        goal=1,
        limit=trees * simulations / goal,
    )


@pytest.mark.parametrize("threads", [2])
def bench_threads(compare: Callable[..., None], threads: int) -> None:
    """Threads go down trees and take answers in; the arrays between are made by one."""
    answers, trees, simulations, per_tree = table(8), 1024, 200, 8

    def search() -> ap.Search:
        return searched(answers, trees, simulations, per_tree, per_tree * trees)

    def alone() -> ap.Search:
        with ap.num_threads(1):
            return search()

    case = f"{trees:,} trees x {simulations} x 8 children, {per_tree} under way"
    compare(case, "one thread", search, alone, threads=threads)


@pytest.mark.parametrize("per_tree", [1, 8])
def bench_boundary(compare: Callable[..., None], per_tree: int) -> None:
    """A search through Python, less the same search in the core alone: what a leaf costs on
    its way out and in. All leaves get the same answer, so that nobody looks anything up."""
    trees, simulations, priors = 256, 800, np.arange(1.0, 9.0) / 36
    batch = per_tree * trees
    values, rows = np.full(batch, 0.5), np.tile(priors, (batch, 1))

    def new() -> ap.Search:
        return ap.Search(trees, 2**31, num_simulations=simulations)

    def ours() -> ap.Search:
        search = new()
        while leaves := search.select(batch, per_tree=per_tree):
            whole = len(leaves) == batch
            told = (values, rows) if whole else (values[: len(leaves)], rows[: len(leaves)])
            search.expand(leaves, values=told[0], priors=told[1])
        return search

    def alone() -> ap.Search:
        search = new()
        search._forest._run_alone(batch, per_tree, 0.5, priors.tolist())
        return search

    np.testing.assert_array_equal(ours().nodes().visits, alone().nodes().visits)
    compare(
        f"boundary, batches of {batch}",
        "goal of 0.1 us a leaf",
        ours,
        None,
        less=alone,
        limit=trees * simulations * 1e-7,
    )


@pytest.mark.parametrize("simulations", [10_000, 100_000])
def bench_growth(compare: Callable[..., None], simulations: int) -> None:
    """One tree that grows: the peer is the same search's first thousand simulations."""
    answers, short = table(8), 1000
    compare(
        f"1 tree x {simulations:,} x 8 children",
        "1,000 simulations",
        lambda: searched(answers, 1, simulations, 64, 64),
        lambda: searched(answers, 1, short, 64, 64),
        goal=0.5,
        peer_scale=simulations / short,
    )
