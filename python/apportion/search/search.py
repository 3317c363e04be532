"""Tree search over many trees at once: ask for leaves, tell what they are worth.

    search = apportion.Search(num_roots=8, max_nodes=512, c_puct=1.25, seed=0)
    while leaves := search.select(batch_size=32):
        values, priors = evaluate(leaves)
        search.expand(leaves, values=values, priors=priors)

The engine knows nodes by number; what a node stands for (a text, a state) is kept by
the caller under `(tree, node)`. `desk` asks and tells, `results` is read, `log` is the
search on disk, `loops` are the loops around.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from apportion import _core
from apportion.errors import InputError
from apportion.search import loops
from apportion.search.answers import positive
from apportion.search.data import Leaves
from apportion.search.desk import Desk, check_on_error
from apportion.search.results import Results

if TYPE_CHECKING:
    from apportion.trees.trees import Texts


class Search(Desk, Results):
    """A forest of search trees, asked for leaves and told their values.

    Args:
        num_roots: number of trees.
        max_nodes: nodes a tree may have, unvisited children among them.
        rule: how children are chosen, one of `search_rules()`.
        num_simulations: leaves a tree may visit after its root; default `max_nodes`.
        max_depth: depth at which nodes get no children.
        max_tokens: tokens that a tree may hold, of edges and rollouts.
        max_rollouts: rollouts that a tree may hold; an answer's value stays that of all that
            were told.
        max_requests: requests that a tree may hand out.
        max_seconds: time after the first request, of the whole search.
        on_limit: what an answer does that goes beyond nodes, depth, tokens or rollouts:
            with `"stop"` the children or rollouts that do not fit are dropped and the tree is not
            searched further (at `max_depth` the node just has none), with `"error"` it is
            refused.
        deadline: seconds after which a request counts as failed; a later answer is refused.
        gamma: discount of a child's value; -1 for two players in turns.
        seed: key of all randomness.
        virtual_loss: loss that a leaf in flight is counted as; `None` counts its visit
            in the exploration term alone.
        tell_order: with `"ticket"` a tree asks in rounds and takes a round's answers in
            the order in which they were asked for, so that results do not depend on when
            answers come; with `"arrival"` it takes them as they come.
        root_visit: what a root's own evaluation counts as: a visit with its `"value"`,
            a visit of `"zero"`, or `"none"`.
        root_noise: `(fraction, alpha)`: Dirichlet noise in a root's priors.
        widening: `(factor, power)`: a node with `n` visits is asked for more children
            while it has fewer than `factor * n**power`.
        merge: equal states share one evaluation and one set of children; equal are those
            of equal `keys` or, without keys, of equal tokens from the root.
        variance: keep each edge's variance.
        solve: best value there is; given, nodes are proven from terminal ones.
        close_terminal: terminal nodes are visited once, and nodes of which no child is
            left not any more.
        max_failures: failed evaluations after which a node is given up, from 1 to 255; a
            root, with which its tree ends, after 16 if that is more.
        stop_after: simulations of a tree before which the following are not looked at.
        stop_gap: stop when a root's best child leads the second by so much.
        stop_width: stop when the 95 % interval of a root's value is at most so wide.
        stop_value: stop at a terminal node or rollout of at least this value.
        stop_positives: stop at so many terminal nodes and rollouts of positive value.
        stop_negatives: the same of negative value; with `stop_positives`, at both.
        stop_threshold: values above it are positive, values below it negative; 0.5 where right
            answers are worth 1 and wrong ones 0.
        **options: options of the rule, such as `c_puct`.

    Raises:
        OptionError: an unknown rule or option, or one out of its range.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Search:
        """Keeps the arguments, with which a log begins."""
        search = super().__new__(cls)
        search._arguments = (
            tuple(map(_plain, args)),
            {name: _plain(value) for name, value in kwargs.items()},
        )
        return search

    def __init__(
        self,
        num_roots: int,
        max_nodes: int,
        *,
        rule: str = "puct",
        num_simulations: int | None = None,
        max_depth: int | None = None,
        max_tokens: int | None = None,
        max_rollouts: int | None = None,
        max_requests: int | None = None,
        max_seconds: float | None = None,
        on_limit: str = "stop",
        deadline: float | None = None,
        gamma: float = 1.0,
        seed: int = 0,
        virtual_loss: float | None = None,
        tell_order: str = "ticket",
        root_visit: str = "value",
        root_noise: tuple[float, float] | None = None,
        widening: tuple[float, float] | None = None,
        merge: bool = False,
        variance: bool = False,
        solve: float | None = None,
        close_terminal: bool = False,
        max_failures: int = 3,
        stop_after: int = 0,
        stop_gap: float | None = None,
        stop_width: float | None = None,
        stop_value: float | None = None,
        stop_positives: int | None = None,
        stop_negatives: int | None = None,
        stop_threshold: float = 0.0,
        **options: Any,
    ) -> None:
        """A forest of `num_roots` unevaluated roots."""
        limits = {
            "num_roots": num_roots,
            "max_nodes": max_nodes,
            "num_simulations": max_nodes if num_simulations is None else num_simulations,
            "max_depth": max_depth,
            "max_tokens": max_tokens,
            "max_rollouts": max_rollouts,
            "max_requests": max_requests,
            "on_limit": on_limit,
            "gamma": gamma,
            "seed": seed,
            "virtual_loss": virtual_loss,
            "tell_order": tell_order,
            "root_visit": root_visit,
            "root_noise": root_noise,
            "widening": widening,
            "merge": merge,
            "variance": variance,
            "solve": solve,
            "close_terminal": close_terminal,
            "max_failures": max_failures,
            "stop_after": stop_after,
            "stop_gap": stop_gap,
            "stop_width": stop_width,
            "stop_value": stop_value,
            "stop_positives": stop_positives,
            "stop_negatives": stop_negatives,
            "stop_threshold": stop_threshold,
        }
        super().__init__(_core.Forest(str(rule), options, limits), deadline, max_seconds)
        self.num_roots: int = int(num_roots)
        self.gamma: float = gamma
        self.num_simulations: int = limits["num_simulations"]  # type: ignore[assignment]

    def run(
        self,
        evaluate: Callable[[Leaves], loops.Answer],
        *,
        batch_size: int = 256,
        per_tree: int | None = None,
        order: str = "priority",
        on_error: str = "raise",
        progress: bool = False,
    ) -> None:
        """Search until the budgets are spent.

        Args:
            evaluate: takes leaves, returns the keyword arguments of `expand`.
            batch_size: leaves asked for at once.
            per_tree: as in `select`.
            order: as in `select`.
            on_error: what an exception of `evaluate`, or an answer that cannot be taken,
                does: `"raise"` counts the leaves as failed and raises it, `"fail"` counts
                them as failed and goes on. An `OptionError`, as of an evaluator that does
                not suit the rule, is no fault that passes and is always raised.
            progress: show a bar on stderr.

        Warns:
            RuntimeWarning: nodes were given up; says how many, whose roots, and the last error.
        """
        check_on_error("run", on_error)
        select = {"batch_size": batch_size, "per_tree": per_tree, "order": order}
        loops.run(self, evaluate, select, on_error, progress)

    async def arun(
        self,
        evaluate: Callable[[Leaves], Awaitable[loops.Answer]],
        *,
        concurrency: int = 8,
        batch_size: int = 32,
        per_tree: int | None = None,
        order: str = "priority",
        on_error: str = "raise",
        progress: bool = False,
    ) -> None:
        """Search until the budgets are spent, with several evaluations under way.

        An evaluation that takes longer than `deadline` is cancelled, its leaves count as
        failed, and the search goes on.

        Args:
            evaluate: as in `run`, but a coroutine function.
            concurrency: evaluations under way at once.
            batch_size: leaves of each.
            per_tree: as in `select`.
            order: as in `select`.
            on_error: as in `run`.
            progress: show a bar on stderr.

        Warns:
            RuntimeWarning: as in `run`.
        """
        check_on_error("arun", on_error)
        count = positive("concurrency", concurrency)
        select = {"batch_size": batch_size, "per_tree": per_tree, "order": order}
        await loops.arun(self, evaluate, select, count, on_error, progress)

    def to_html(
        self, path: Any = None, *, texts: Texts | None = None, title: str = "Search"
    ) -> Any:
        """One HTML page that shows every tree; see `Trees.to_html`.

        Args:
            path: a file, replaced in one step; without it the page is returned.
            texts: what nodes stand for; see `Trees.from_search`.
            title: heading of the page.
        """
        from apportion.trees.trees import Trees

        return Trees.from_search(self, texts).to_html(path, title=title)

    def log_to(self, folder: str | PathLike[str]) -> None:
        """Write every call from now on to a folder, so that `resume` can go on after a crash.

        A process that is killed at any point, even while it writes, loses at most the
        call that was under way. A loss of power can lose the last calls, not earlier ones.
        What nodes stand for is not written, but their `tokens` are.

        Raises:
            InputError: the search has been asked already, or the folder has a log.
            OSError: the folder cannot be written.
        """
        if self._log is not None or self._forest.requests().any():
            raise InputError("log_to: got a search that has begun, expected a new one")
        from apportion.search.log import SearchLog

        self._log = SearchLog.create(Path(fspath(folder)), self._arguments)

    @classmethod
    def resume(cls, folder: str | PathLike[str]) -> Search:
        """The search whose log is in a folder, as it was after the last whole call.

        Requests that waited for an answer are handed out again by `select`, under
        their old tickets, before new ones. With the same evaluations the search ends as
        if it had never been interrupted. `max_seconds` counts the time of earlier processes;
        a `deadline` begins when a request is handed out again.

        Raises:
            FileFormatError: a byte of the log is not as it was written; says which.
            InputError: another process is writing the log.
            OSError: there is no log, or it cannot be read.
        """
        from apportion.search import log

        search, written = log.resume(Path(fspath(folder)), cls._remade)
        search._log = written
        search._go_on()
        return cast("Search", search)

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> Search:
        """As `resume`, to look at: nothing is written, and the search may be under way."""
        from apportion.search import log

        return cast("Search", log.read(Path(fspath(folder)), cls._remade))

    @classmethod
    def _remade(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Search:
        return cls(*args, **kwargs)

    def close(self) -> None:
        """End the log, so that another process can resume it; without a log, nothing."""
        if self._log is not None:
            self._log.close()


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's, which a log can hold."""
    return value.item() if isinstance(value, np.generic) else value
