"""Trees for the benchmarks: an evaluator that looks answers up in a table. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import apportion as ap

Array = npt.NDArray[Any]
STATES = 1 << 12


@dataclass(frozen=True)
class Table:
    """Values and priors of states; a node's state is a hash of its tree and number."""

    values: Array  # (STATES,)
    priors: Array  # (STATES, A)

    def answer(self, leaves: ap.Leaves) -> dict[str, Array]:
        state = (leaves.node * 2654435761 + leaves.tree * 40503) & (STATES - 1)
        return {"values": self.values.take(state), "priors": self.priors.take(state, axis=0)}


def table(children: int, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((STATES, children))
    weights = np.exp(logits)
    return Table(rng.random(STATES), weights / weights.sum(1, keepdims=True))


def searched(
    answers: Table, trees: int, simulations: int, per_tree: int, batch: int, **options: Any
) -> ap.Search:
    """A finished search."""
    search = ap.Search(trees, 2**31, num_simulations=simulations, **options)
    while leaves := search.select(batch, per_tree=per_tree):
        search.expand(leaves, **answers.answer(leaves))
    return search
