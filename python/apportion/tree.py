"""Tree search over many trees at once: ask for leaves, tell what they are worth.

    search = apportion.Search(num_roots=8, max_nodes=512, c_puct=1.25, seed=0)
    while leaves := search.select(batch_size=32):
        values, priors = evaluate(leaves)
        search.expand(leaves, values=values, priors=priors)

The engine knows nodes by number; what a node stands for (a text, a state) is kept by
the caller under `(tree, node)`. Depends on `answers`, `search_data`, `searching`, `search_log`,
`timeline`, `errors` and the core.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from apportion import _core, searching
from apportion.answers import encode
from apportion.arrays import Array, integers
from apportion.errors import InputError, OptionError
from apportion.search_data import Leaves, Nodes, SearchRollouts
from apportion.threads import get_num_threads
from apportion.timeline import Timeline

if TYPE_CHECKING:
    from apportion.credit import Credit
    from apportion.search_log import SearchLog
    from apportion.trees.data import Texts


class Search:
    """A forest of search trees, asked for leaves and told their values.

    Args:
        num_roots: number of trees.
        max_nodes: nodes a tree may have, unvisited children among them.
        rule: how children are chosen, one of `search_rules()`.
        num_simulations: leaves a tree may visit after its root; default `max_nodes`.
        max_depth: depth at which nodes get no children.
        max_tokens: tokens that a tree may hold, of edges and rollouts.
        max_rollouts: rollouts that a tree may hold.
        max_requests: requests that a tree may hand out.
        max_seconds: time after the first request, of the whole search.
        on_limit: what an answer does that goes beyond nodes, depth, tokens or rollouts:
            with `"stop"` the children that do not fit are dropped and the tree is not
            searched further (at `max_depth` the node just has none), with `"error"` it is
            refused.
        deadline: seconds after which a request counts as failed.
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
        max_failures: failed evaluations after which a node is given up.
        stop_after: simulations of a tree before which the following are not looked at.
        stop_gap: stop when a root's best child leads the second by so much.
        stop_width: stop when the 95 % interval of a root's value is at most so wide.
        stop_value: stop at a terminal node or rollout of at least this value.
        stop_positives: stop at so many terminal nodes and rollouts of positive value.
        stop_negatives: the same of negative value; with `stop_positives`, at both.
        **options: options of the rule, such as `c_puct`.

    Raises:
        OptionError: an unknown rule or option, or one out of its range.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Search:
        """Keeps the arguments, with which a log begins."""
        search = super().__new__(cls)
        search._arguments = (args, kwargs)
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
        }
        self.deadline = _seconds("deadline", deadline)
        self.max_seconds = _seconds("max_seconds", max_seconds)
        self._forest = _core.Forest(rule, options, limits)
        self._timeline = Timeline()
        self._log: SearchLog | None = None
        self.num_roots: int = num_roots
        self.gamma: float = gamma
        self.num_simulations: int = limits["num_simulations"]  # type: ignore[assignment]
        self._started: float | None = None
        self._asked: deque[tuple[float, Array]] = deque()  # when, and which tickets

    def select(
        self, batch_size: int, *, per_tree: int | None = None, order: str = "priority"
    ) -> Leaves:
        """Up to `batch_size` requests across all trees; no tree has more than `per_tree`
        of them under way.

        Empty when every budget is spent, or when what could be asked waits for answers.

        Args:
            batch_size: requests at most.
            per_tree: default: an even share of the batch for each tree, at least 1.
            order: of the rows: `"priority"`, as the trees chose them, or `"prefix"`,
                depth first by tree and path, so that neighbours share the longest
                prefixes.
        """
        size = _count("batch_size", batch_size)
        share = 0 if per_tree is None else _count("per_tree", per_tree)
        if self._is_over():
            size = 0
        found = self._call("select", size, share, order, get_num_threads())
        leaves = Leaves(**found, _forest=self._forest)
        if self.deadline is not None and leaves:
            self._asked.append((time.monotonic(), leaves.ticket))
        return leaves

    def _is_over(self) -> bool:
        """Whether time is up; requests past the deadline fail here."""
        now = time.monotonic()
        self._started = now if self._started is None else self._started
        while self.deadline and self._asked and now - self._asked[0][0] >= self.deadline:
            tickets = self._asked.popleft()[1]
            late = tickets[self._forest.is_waiting(tickets)]
            self._call("fail", late)
        return self.max_seconds is not None and now - self._started >= self.max_seconds

    def expand(
        self,
        leaves: Leaves | Any,
        *,
        values: Any = None,
        priors: Any = None,
        children: Any = None,
        masked: Any = None,
        rewards: Any = None,
        terminal: Any = None,
        tokens: Any = None,
        keys: Any = None,
        child_values: Any = None,
        child_terminal: Any = None,
        rollouts: Any = None,
        rollout_tokens: Any = None,
        rollout_log_probs: Any = None,
        on_error: str = "raise",
    ) -> None:
        """Give answers, in any order; refused as a whole if one does not fit.

        Rows of children are `(n, A)` arrays, or `n` rows of any lengths; all of them agree
        on the numbers of children.

        Args:
            leaves: requests from `select`, or their tickets.
            values: `(n,)` values, from the side of whoever moves at the leaf; without
                them a leaf is worth the mean of its rollouts.
            priors: rows of children's priors.
            children: `(n,)` numbers of children, or one number, for equal priors. Without
                any column of children a leaf gets no children.
            masked: rows, true for children that are no choice: they are there, but never
                entered.
            rewards: `(n,)` rewards of the edges into the leaves; default 0.
            terminal: `(n,)` whether leaves are ends, whose value is exact.
            tokens: for each leaf, for each child, the tokens of its edge.
            keys: rows of integers that name children's states; see `merge`.
            child_values: rows of children's values, where they are known already.
            child_terminal: rows, true for children that are ends worth `child_values`.
            rollouts: `n` rows: what each rollout from the leaf earned.
            rollout_tokens: for each leaf, for each rollout, its tokens.
            rollout_log_probs: as `rollout_tokens`, each token's log-prob.
            on_error: what an answer does that has a number which is not finite, or a
                prior below 0: `"raise"` refuses all, `"fail"` counts that leaf as failed.

        Raises:
            InputError: an unknown, repeated or late ticket, a wrong length, a value that
                is not finite; names the argument and the index.
        """
        tickets = _tickets(leaves)
        searching.check_on_error("expand", on_error)
        given = {
            "values": values,
            "priors": priors,
            "masked": masked,
            "rewards": rewards,
            "terminal": terminal,
            "tokens": tokens,
            "keys": keys,
            "child_values": child_values,
            "child_terminal": child_terminal,
            "rollouts": rollouts,
            "rollout_tokens": rollout_tokens,
            "rollout_log_probs": rollout_log_probs,
        }
        counts, columns = encode(len(tickets), children, given)
        self._call("expand", tickets, counts, columns, on_error == "fail")

    def fail(self, leaves: Leaves | Any) -> None:
        """Give requests back as failed: no visit is counted, they may be asked again.

        A node that failed `max_failures` times is given up.
        """
        self._call("fail", _tickets(leaves))

    def cancel(self, leaves: Leaves | Any) -> None:
        """Give requests back as if they had never been handed out."""
        self._call("cancel", _tickets(leaves))

    def _call(self, name: str, *args: Any) -> Any:
        """The one way to change the forest: what goes through here is logged and counted."""
        if self._log is not None:
            return self._log.call(self, name, args)
        found = getattr(self._forest, name)(*args)
        self._timeline.note(name, args)
        return found

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
        from apportion.search_log import SearchLog

        self._log = SearchLog.create(Path(fspath(folder)), self._arguments)

    @classmethod
    def resume(cls, folder: str | PathLike[str]) -> Search:
        """The search whose log is in a folder, as it was after the last whole call.

        Requests that waited for an answer are handed out again by `select`, under
        their old tickets, before new ones. With the same evaluations the search ends as
        if it had never been interrupted. Budgets of time begin anew.

        Raises:
            FileFormatError: a byte of the log is not as it was written; says which.
            InputError: another process is writing the log.
            OSError: there is no log, or it cannot be read.
        """
        from apportion import search_log

        search, log = search_log.resume(Path(fspath(folder)), cls._remade)
        search._log = log
        return cast("Search", search)

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> Search:
        """As `resume`, to look at: nothing is written, and the search may be under way."""
        from apportion import search_log

        return cast("Search", search_log.read(Path(fspath(folder)), cls._remade))

    @classmethod
    def _remade(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Search:
        return cls(*args, **kwargs)

    def close(self) -> None:
        """End the log, so that another process can resume it; without a log, nothing."""
        if self._log is not None:
            self._log.close()

    def waiting(self, leaves: Leaves | Any) -> Array:
        """`(n,)` which requests wait for an answer: not told, failed, cancelled or late."""
        return self._forest.is_waiting(_tickets(leaves))

    def run(
        self,
        evaluate: Callable[[Leaves], searching.Answer],
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
                them as failed and goes on.
            progress: show a bar on stderr.
        """
        searching.check_on_error("run", on_error)
        select = {"batch_size": batch_size, "per_tree": per_tree, "order": order}
        searching.run(self, evaluate, select, on_error, progress)

    async def arun(
        self,
        evaluate: Callable[[Leaves], Awaitable[searching.Answer]],
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
        """
        searching.check_on_error("arun", on_error)
        count = _count("concurrency", concurrency)
        select = {"batch_size": batch_size, "per_tree": per_tree, "order": order}
        await searching.arun(self, evaluate, select, count, on_error, progress)

    @property
    def in_flight(self) -> int:
        """Leaves that wait for an answer."""
        return self._forest.in_flight()

    @property
    def simulations(self) -> Array:
        """`(num_roots,)` simulations finished."""
        return self._forest.simulations()

    @property
    def requests(self) -> Array:
        """`(num_roots,)` requests handed out."""
        return self._forest.requests()

    @property
    def bytes(self) -> tuple[int, int]:
        """Memory in use: of nodes, and of tokens and rollouts."""
        return self._forest.bytes()

    def nodes(self) -> Nodes:
        """Every node's statistics."""
        return Nodes(**self._forest.nodes())

    @property
    def timeline(self) -> dict[str, list[float]]:
        """Budget over time: `seconds` since the search was made, and what was spent by then.

        Leaves `answered` and `failed`, and `nodes` that the answers asked for. At most
        512 points, evenly spread over the calls.
        """
        return self._timeline.columns()

    def to_html(
        self, path: Any = None, *, texts: Texts | None = None, title: str = "Search"
    ) -> Any:
        """One HTML page that shows every tree; see `Trees.to_html`.

        Args:
            path: a file, replaced in one step; without it the page is returned.
            texts: what nodes stand for; see `Trees.from_search`.
            title: heading of the page.
        """
        from apportion.trees import Trees

        return Trees.from_search(self, texts).to_html(path, title=title)

    def tokens(self) -> tuple[Array, Array]:
        """Tokens of the edge into each node, one after the other, and `(nodes + 1,)`
        offsets, in the order of `nodes()`."""
        return self._forest.tokens()

    def rollouts(self) -> SearchRollouts:
        """Every rollout."""
        return SearchRollouts(**self._forest.rollouts())

    def credit(self, method: str, *, value_mode: str, **options: Any) -> Credit:
        """Credit read from the trees: what each edge added.

        A row is a node, in the order of `nodes()`, then a rollout, in that of `rollouts()`,
        as a leaf below its node; tokens are those of `tokens()`, then those of rollouts.
        What was never visited gets 0 and is masked.

        Args:
            method: a method that reads trees: `"spo"`, `"treerl"`, `"tree_grpo"`,
                `"treepo"`, `"vineppo"` or `"tree_ps_rag"`.
            value_mode: a node's value, as a return from the root: the mean over the
                evaluated leaves and rollouts below (`"leaf"`), the unweighted mean over
                the visited children (`"child"`), the largest of them (`"max"`), or the
                mean of everything backed up through the node (`"visit"`).
            **options: options of the method.

        Raises:
            OptionError: a method that reads no trees, or a `value_mode` that it has not.
        """
        from apportion.tree_rows import credit_of_search

        return credit_of_search(self, method, value_mode, options)

    def child_values(self, tree: int, node: int, *, how: str = "mean") -> Array:
        """Values of a node's children, in order.

        `"mean"`: mean returns, 0 where unvisited. `"scaled"`: mapped to 0..1 over the
        node's own value and the visited children, as `muzero` compares them.
        `"completed"`: as `gumbel` compares them, with its default options. `"score"`: what
        the search's rule compares; empty where it has no one number for a child.
        """
        return self._forest.child_values(tree, node, how)

    def finals(self, tree: int) -> Array:
        """Nodes that a tree's search ends with, in the rule's order.

        The beams or paths of beam rules, the best path's end of `llm_reasoners`; empty for
        rules that only gather statistics.
        """
        return self._forest.finals(tree)

    def bisections(self, tree: int) -> list[tuple[int, list[int], list[int]]]:
        """The searches of a pool rule in order: the rollout, the good and the bad prefixes.

        Prefixes are nodes; the error lies between the last good one (where there is none,
        the node that the rollout began at) and the last bad one.
        """
        found: list[tuple[int, list[int], list[int]]] = []
        for kind, about in zip(*self._forest.pool_log(tree), strict=True):
            if kind == 1:
                found.append((int(about), [], []))
            elif kind > 1:
                _, good, bad = found[-1]
                (good if kind == 2 else bad).append(int(about))
        return found

    def policy(self) -> tuple[Array, list[Array]]:
        """Each root's recommended child, and the probabilities of its children."""
        return self._forest.policy()


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}: got {value!r}, expected an integer of at least 1")
    return int(value)


def _tickets(leaves: Leaves | Any) -> Array:
    tickets = integers("tickets", leaves.ticket if isinstance(leaves, Leaves) else leaves)
    if tickets.ndim != 1:
        raise InputError(f"tickets: got shape {tickets.shape}, expected one dimension")
    return tickets


def _seconds(name: str, value: Any) -> float | None:
    if value is None or (isinstance(value, int | float) and 0 < value < float("inf")):
        return value
    raise OptionError(f"search: option {name}: got {value!r}, expected seconds above 0, or None")


def considered_visits(considered: int, simulations: int) -> Array:
    """`(simulations,)` visits that sequential halving wants of the child chosen next.

    At simulation `i` a root under `gumbel` chooses among children with so many visits,
    `considered` of them at first (Danihelka et al. 2022, mctx `seq_halving.py`).
    """
    return _core.considered_visits(
        _count("considered", considered), _count("simulations", simulations)
    )
