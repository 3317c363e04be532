"""The loop of a search whose evaluator can fail in part. Depends on `search` and `errors`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol

import numpy as np

from apportion.errors import EvaluatorError
from apportion.evaluators.requests import Model
from apportion.evaluators.states import Found
from apportion.search import Leaves, Search
from apportion.search.desk import check_on_error

BLAMED = 3
"""Batches in a row without any answer of which the leaves count as failed."""
PATIENCE = 20
"""Batches in a row without any answer after which a search that bears failures ends all the
same. With half of all calls failing that is one run in a million."""


class Partial(Protocol):
    """An evaluator of which single leaves can fail."""

    model: Model

    async def states_of(self, leaves: Leaves) -> list[Found | EvaluatorError]:
        """What the model says to each leaf, or why it says nothing."""

    def keep(self, leaves: Leaves, found: list[Found]) -> dict[str, Any]:
        """Remember what was found; what `Search.expand` is told of it."""


async def run_batches(
    evaluator: Partial,
    search: Search,
    batch_size: int,
    per_tree: int | None,
    on_error: str,
    tick: Callable[[int], None] | None,
) -> int:
    """See `StepEvaluator.arun`."""
    check_on_error("run", on_error)
    failed, lost = 0, 0
    in_vain: set[tuple[int, int]] = set()  # leaves of the batches in a row without an answer
    error: EvaluatorError | None = None
    async with AsyncExitStack() as stack:
        if isinstance(evaluator.model, AbstractAsyncContextManager):
            await stack.enter_async_context(evaluator.model)
        while leaves := search.select(batch_size, per_tree=per_tree, order="prefix"):
            try:
                found = await evaluator.states_of(leaves)
                good = [result for result in found if not isinstance(result, EvaluatorError)]
                bad = np.array([isinstance(result, EvaluatorError) for result in found])
                errors = [result for result in found if isinstance(result, EvaluatorError)]
                if errors and on_error == "raise":
                    raise errors[0]
                lost, in_vain = (0, set()) if good else (lost + 1, in_vain)
                in_vain.update(zip(leaves.tree.tolist(), leaves.node.tolist(), strict=True))
                if errors:
                    error = errors[-1]
                    give_back = search.cancel if lost > BLAMED else search.fail
                    give_back(leaves[bad])
                search.expand(leaves[~bad], **evaluator.keep(leaves[~bad], good))
            except BaseException:
                search.cancel(leaves[search.waiting(leaves)])
                raise
            failed += len(errors)
            if lost == PATIENCE:
                break
            if tick is not None:
                tick(int(search.simulations.sum()))
    nothing = not search.timeline["answered"][-1]
    # Ended because leaf after leaf was given up: not the fault of a single one.
    given_up = lost >= BLAMED and len(in_vain) > 1
    if error is not None and (lost == PATIENCE or given_up or nothing):
        what = f"{lost} batches in a row without an answer, the last: {error}"
        raise EvaluatorError(what) from error
    return failed
