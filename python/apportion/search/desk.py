"""Ask and tell: requests are handed out, answers taken. Depends on `answers`, `data`, the core."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion import _core
from apportion.arrays import Array, int_vector
from apportion.errors import DtypeError, InputError, OptionError
from apportion.search.answers import encode, positive
from apportion.search.data import Leaves
from apportion.search.timeline import Timeline
from apportion.threads import get_num_threads

if TYPE_CHECKING:
    from apportion.search.log import SearchLog


class Desk:
    """Where a forest's requests are asked for and answered, on time."""

    def __init__(
        self, forest: _core.Forest, deadline: float | None, max_seconds: float | None
    ) -> None:
        """A forest that was not asked yet."""
        self.deadline = _seconds("deadline", deadline)
        self.max_seconds = _seconds("max_seconds", max_seconds)
        self._forest = forest
        self._timeline = Timeline()
        self._log: SearchLog | None = None
        self._turn = threading.RLock()
        self._calling = False
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
        size = positive("batch_size", batch_size)
        share = 0 if per_tree is None else positive("per_tree", per_tree)
        if self._is_over():
            size = 0
        found = self._call("select", size, share, str(order), get_num_threads())
        leaves = Leaves._of(found, self._forest)
        if self.deadline is not None and leaves:
            self._asked.append((time.monotonic(), leaves.ticket))
        return leaves

    def _go_on(self) -> None:
        """Takes up the time that was spent when this search was another process's."""
        if self._forest.requests().any():
            self._started = time.monotonic() - self._timeline.seconds

    def _is_over(self) -> bool:
        """Whether time is up."""
        self._fail_late()
        now = time.monotonic()
        self._started = now if self._started is None else self._started
        return self.max_seconds is not None and now - self._started >= self.max_seconds

    def _fail_late(self) -> None:
        """Requests past the deadline have failed."""
        if self.deadline is None:
            return
        now = time.monotonic()
        with self._turn:  # nobody answers between the question and the failure
            while self._asked and now - self._asked[0][0] >= self.deadline:
                tickets = self._asked.popleft()[1]
                late = tickets[self._forest.is_waiting(tickets)]
                self._call("fail", late)

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
        token_log_probs: Any = None,
        child_scores: Any = None,
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
            token_log_probs: as `tokens`, each token's log-prob; an empty row for an edge
                where they are not known.
            child_scores: for each leaf, for each child, the scores that its value is made
                of. They are kept for `Search.child_scores`, and change nothing.
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
                is not finite or above 1e100 in size; names the argument and the index.
        """
        tickets = self._tickets(leaves)
        check_on_error("expand", on_error)
        given = {
            "values": values,
            "priors": priors,
            "masked": masked,
            "rewards": rewards,
            "terminal": terminal,
            "tokens": tokens,
            "token_log_probs": token_log_probs,
            "child_scores": child_scores,
            "keys": keys,
            "child_values": child_values,
            "child_terminal": child_terminal,
            "rollouts": rollouts,
            "rollout_tokens": rollout_tokens,
            "rollout_log_probs": rollout_log_probs,
        }
        counts, columns = encode(len(tickets), children, given)
        self._fail_late()
        lenient = on_error == "fail"
        self._call("expand", tickets, counts, columns, lenient, get_num_threads())

    def fail(self, leaves: Leaves | Any) -> None:
        """Give requests back as failed: no visit is counted, they may be asked again.

        A node that failed `max_failures` times is given up; see `given_up`.
        """
        self._call("fail", self._tickets(leaves))

    def cancel(self, leaves: Leaves | Any) -> None:
        """Give requests back as if they had never been handed out."""
        self._call("cancel", self._tickets(leaves))

    def _call(self, name: str, *args: Any) -> Any:
        """The one way to change the forest: what goes through here is logged and counted.

        One call at a time, so that the log has them in the order in which they happened.
        """
        with self._turn:
            if self._calling:  # a signal's handler: it cannot wait for what it interrupts
                raise InputError(
                    "search: got a call from within another call of the same thread, "
                    "expected it after that has returned"
                )
            self._calling = True
            try:
                if self._log is not None:
                    return self._log.call(self, name, args)
                found = getattr(self._forest, name)(*args)
                self._timeline.note(name, args, found)
                return found
            finally:
                self._calling = False

    def waiting(self, leaves: Leaves | Any) -> Array:
        """`(n,)` which requests wait for an answer: not told, failed, cancelled or late."""
        self._fail_late()
        return self._forest.is_waiting(self._tickets(leaves))

    def _tickets(self, leaves: Leaves | Any) -> Array:
        if isinstance(leaves, Leaves):
            if leaves._forest is not self._forest:
                raise InputError("leaves: got those of another search, expected some of this one")
            return leaves.ticket
        try:
            tickets = int_vector("tickets", leaves)
        except DtypeError as error:
            got = f"{leaves!r:.60}"
            raise DtypeError(
                f"tickets: got {got}, expected leaves of `select`, or tickets, integers"
            ) from error
        below = np.flatnonzero(tickets < 0)
        if len(below):
            at = int(below[0])
            raise InputError(f"tickets[{at}]: got {tickets[at]}, expected one from select")
        return tickets

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
    def given_up(self) -> tuple[Array, Array]:
        """`(n,)` trees and `(n,)` nodes that failed so often that they are not asked for again.

        The search of a tree whose root (node 0) is among them has ended.
        """
        return self._forest.given_up()

    @property
    def bytes(self) -> tuple[int, int]:
        """Memory in use: of nodes, and of tokens and rollouts."""
        return self._forest.bytes()

    @property
    def timeline(self) -> dict[str, list[float]]:
        """Budget over time: `seconds` since the search was made, and what was spent by then.

        Leaves `answered` and `failed`, and `nodes` that the answers asked for. At most
        512 points, evenly spread over the calls.
        """
        return self._timeline.columns()


def check_on_error(function: str, on_error: str) -> None:
    """Refuse what is neither `"raise"` nor `"fail"`."""
    if on_error not in ("raise", "fail"):
        raise OptionError(
            f"{function}: option on_error: got {on_error!r}, expected 'raise' or 'fail'"
        )


def _seconds(name: str, value: Any) -> float | None:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if value is None or (is_number and 0 < value < float("inf")):
        return value  # type: ignore[no-any-return]
    raise OptionError(f"search: option {name}: got {value!r}, expected seconds above 0, or None")
