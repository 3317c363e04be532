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

PATIENCE = 3
"""Batches without any answer after which a search that bears failures ends all the same."""


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
    async with AsyncExitStack() as stack:
        if isinstance(evaluator.model, AbstractAsyncContextManager):
            await stack.enter_async_context(evaluator.model)
        while leaves := search.select(batch_size, per_tree=per_tree, order="prefix"):
            try:
                found = await evaluator.states_of(leaves)
            except BaseException:
                search.cancel(leaves)
                raise
            errors = [result for result in found if isinstance(result, EvaluatorError)]
            if errors and on_error == "raise":
                search.cancel(leaves)
                raise errors[0]
            bad = np.array([isinstance(result, EvaluatorError) for result in found])
            if errors:
                search.fail(leaves[bad])
            good = [result for result in found if not isinstance(result, EvaluatorError)]
            search.expand(leaves[~bad], **evaluator.keep(leaves[~bad], good))
            failed, lost = failed + len(errors), 0 if good else lost + 1
            if lost == PATIENCE:
                what = f"{PATIENCE} batches in a row without an answer, the last: {errors[-1]}"
                raise EvaluatorError(what) from errors[-1]
            if tick is not None:
                tick(int(search.simulations.sum()))
    return failed
