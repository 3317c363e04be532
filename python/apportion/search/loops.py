"""The two loops around ask and tell: plain and asynchronous.

Depends on `desk`, `failures`, `progress` and `errors`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from apportion.errors import InputError, OptionError
from apportion.progress import reporter
from apportion.search.failures import Failures

if TYPE_CHECKING:
    import asyncio

    from apportion.search.data import Leaves
    from apportion.search.desk import Desk

Answer = Mapping[str, Any]


def run(
    search: Desk,
    evaluate: Callable[[Leaves], Answer],
    select: Mapping[str, Any],
    on_error: str,
    progress: bool,
) -> None:
    """Ask, evaluate and tell until the budgets are spent."""
    show, failures = reporter(progress, search), Failures(search)
    while leaves := search.select(**select):
        try:
            answer = evaluate(leaves)
        except Exception as error:
            failures.last = error
            fail(search, leaves)
            if on_error == "raise" or isinstance(error, OptionError):
                raise
        except BaseException:
            search.cancel(leaves[search.waiting(leaves)])
            raise
        else:
            tell(search, leaves, answer, on_error, failures)
        show(False)
    show(True)
    failures.warn()


def tell(search: Desk, leaves: Leaves, answer: Any, on_error: str, failures: Failures) -> None:
    """Give an answer; one that cannot be taken fails its leaves.

    That it came after the deadline is no error of whoever gave it.
    """
    try:
        if not isinstance(answer, Mapping):
            got = type(answer).__name__
            raise InputError(f"evaluate: returned {got}, expected a mapping, what `expand` is told")
        search.expand(leaves, **answer, on_error=on_error)
    except Exception as error:
        is_late = not search.waiting(leaves).all()
        failures.last = failures.last if is_late else error
        fail(search, leaves)
        if on_error == "raise" and not is_late:
            raise


def fail(search: Desk, leaves: Leaves) -> None:
    """Fail leaves, but for those that the deadline has failed already."""
    search.fail(leaves[search.waiting(leaves)])


async def arun(
    search: Desk,
    evaluate: Callable[[Leaves], Awaitable[Answer]],
    select: Mapping[str, Any],
    concurrency: int,
    on_error: str,
    progress: bool,
) -> None:
    """The same with up to `concurrency` evaluations under way.

    Left early, by an error or because the task was cancelled, it stops the evaluations
    and takes their leaves back.
    """
    import asyncio  # here: it would double the time that importing the package takes

    async def ask(leaves: Leaves) -> Answer:
        return await evaluate(leaves)  # what it raises before its first await is raised here

    show, failures = reporter(progress, search), Failures(search)
    pending: dict[asyncio.Future[Answer], Leaves] = {}
    try:
        while True:
            while len(pending) < concurrency and (leaves := search.select(**select)):
                job = asyncio.wait_for(ask(leaves), search.deadline)
                pending[asyncio.ensure_future(job)] = leaves
            if not pending:
                break
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for future in sorted(done, key=lambda f: int(pending[f].ticket[0])):
                _settle(search, pending.pop(future), future, on_error, failures)
            show(False)
    finally:
        for future in pending:
            future.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for leaves in pending.values():
            search.cancel(leaves[search.waiting(leaves)])
    show(True)
    failures.warn()


def _settle(
    search: Desk,
    leaves: Leaves,
    future: asyncio.Future[Answer],
    on_error: str,
    failures: Failures,
) -> None:
    import asyncio

    error = asyncio.CancelledError() if future.cancelled() else future.exception()
    if error is None:
        tell(search, leaves, future.result(), on_error, failures)
        return
    failures.last = error
    fail(search, leaves)
    late = isinstance(error, asyncio.TimeoutError) and search.deadline is not None
    is_fault = isinstance(error, Exception) and not isinstance(error, OptionError)
    if not late and (on_error == "raise" or not is_fault):
        raise error
