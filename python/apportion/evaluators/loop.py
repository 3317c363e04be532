"""The loop of a search whose evaluator can fail in part. Depends on `search` and `errors`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol

import numpy as np

from apportion.arrays import Array
from apportion.errors import EvaluatorError
from apportion.evaluators.requests import Model
from apportion.evaluators.states import Found
from apportion.search import Leaves, Search
from apportion.search.desk import check_on_error
from apportion.search.failures import Failures

PATIENCE = 20
"""Batches in a row without any answer after which a search that bears failures ends all the
same. With half of all calls failing that happens once in a million batches."""


class Partial(Protocol):
    """An evaluator of which single leaves can fail."""

    model: Model

    async def states_of(self, leaves: Leaves) -> list[Found]:
        """What the model says to each leaf, or the error."""

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
    blame, failed = Blame(), 0
    failures = Failures(search)
    async with AsyncExitStack() as stack:
        if isinstance(evaluator.model, AbstractAsyncContextManager):
            await stack.enter_async_context(evaluator.model)
        while leaves := search.select(batch_size, per_tree=per_tree, order="prefix"):
            try:
                found = await evaluator.states_of(leaves)
                good = [one for one in found if one.error is None]
                bad = np.array([one.error is not None for one in found])
                errors = [one.error for one in found if one.error is not None]
                if errors and on_error == "raise":
                    raise errors[0]
                blamed = blame.of(leaves, found)
                if errors:
                    failures.last = errors[-1]
                    search.fail(leaves[blamed])
                    search.cancel(leaves[bad & ~blamed])
                search.expand(leaves[~bad], **evaluator.keep(leaves[~bad], good))
            except BaseException:
                search.cancel(leaves[search.waiting(leaves)])
                raise
            failed += len(errors)
            if blame.lost == PATIENCE:
                break
            if tick is not None:
                tick(int(search.simulations.sum()))
    nothing = not search.timeline["answered"][-1]
    if failures.last is not None and (blame.lost == PATIENCE or nothing):
        what = f"{blame.lost} batches in a row without an answer, the last: {failures.last}"
        raise EvaluatorError("; ".join(filter(None, (what, str(failures))))) from failures.last
    failures.warn()
    return failed


class Blame:
    """Which leaves failures count against.

    Where a model answers nothing, that is hardly the fault of what it was asked. A leaf of
    which nothing was answered is to blame if others were beside it or since it failed last,
    or if it is left alone.
    """

    def __init__(self) -> None:
        """Nothing has failed."""
        self.lost = 0
        """Batches in a row without an answer, but for those of suspects alone."""
        self._in_vain: set[tuple[int, int]] = set()  # leaves that failed in those batches
        self._suspects: set[tuple[int, int]] = set()  # leaves that failed before others did not

    def of(self, leaves: Leaves, found: Sequence[Found]) -> Array:
        """`(n,)` which leaves of a batch are to blame."""
        places = list(zip(leaves.tree.tolist(), leaves.node.tolist(), strict=True))
        failed = {
            place
            for place, one in zip(places, found, strict=True)
            if one.error is not None and not one.heard
        }
        if any(one.heard for one in found):
            self._suspects |= self._in_vain | failed
            self._suspects -= set(places) - failed
            self.lost, self._in_vain = 0, set()
        elif failed - self._suspects:
            self.lost += 1
            self._in_vain |= failed
        alone = len(self._in_vain) == 1
        blamed = failed if alone else failed & self._suspects
        return np.array([place in blamed for place in places])
