"""Tree search over many trees at once: ask for leaves, tell what they are worth.

    search = apportion.Search(num_roots=8, max_nodes=512, c_puct=1.25, seed=0)
    while leaves := search.select(batch_size=32):
        values, priors = evaluate(leaves)
        search.expand(leaves, values=values, priors=priors)

The engine knows nodes by number; what a node stands for (a text, a state) is kept by
the caller under `(tree, node)`. Depends on `arrays`, `errors`, `timeline` and the
core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion import _core
from apportion.arrays import Array, floats, integers, to_numpy
from apportion.errors import InputError, OptionError
from apportion.threads import get_num_threads
from apportion.timeline import Timeline

if TYPE_CHECKING:
    from apportion.trees.data import Texts


@dataclass(frozen=True, eq=False)
class Leaves:
    """Nodes to be evaluated, one row each.

    `ticket` is what the answer is given under; `tree` and `node` say where the leaf is,
    `parent` and `action` (which child of its parent; both -1 at a root) how it is
    reached, `depth` its distance from the root.
    """

    ticket: Array
    tree: Array
    node: Array
    parent: Array
    action: Array
    depth: Array
    _forest: Any

    def __len__(self) -> int:
        """Number of leaves."""
        return len(self.ticket)

    def __getitem__(self, rows: Any) -> Leaves:
        """Some of the leaves: a slice, a mask or indices."""
        rows = np.atleast_1d(np.arange(len(self))[rows])
        names = ("ticket", "tree", "node", "parent", "action", "depth")
        return Leaves(**{n: getattr(self, n)[rows] for n in names}, _forest=self._forest)

    def paths(self) -> Iterator[tuple[int, Array]]:
        """For each leaf its tree and the nodes from the root to it."""
        flat, offsets = self._forest.paths(self.tree, self.node)
        for tree, start, end in zip(self.tree, offsets[:-1], offsets[1:], strict=True):
            yield int(tree), flat[start:end]


@dataclass(frozen=True, eq=False)
class Nodes:
    """All nodes of a search, tree after tree, one row each.

    Tree `t` has rows `offsets[t]` to `offsets[t + 1]`; `parent` and `first_child` count
    from the tree's first row and are -1 where there is none. `q` is the mean return of
    the edge into a node as its parent compares it, `value` the node's own mean.
    """

    offsets: Array
    parent: Array
    depth: Array
    first_child: Array
    children: Array
    visits: Array
    q: Array
    value: Array
    raw_value: Array
    reward: Array
    prior: Array
    proven: Array
    failures: Array


class Search:
    """A forest of search trees, asked for leaves and told their values.

    Args:
        num_roots: number of trees.
        max_nodes: nodes a tree may have, unvisited children among them. An expansion
            that does not fit is dropped and ends its tree.
        rule: how children are chosen, one of `search_rules()`.
        num_simulations: leaves a tree may visit after its root; default `max_nodes`.
        max_depth: depth at which nodes get no children.
        gamma: discount of a child's value; -1 for two players in turns.
        seed: key of all randomness.
        virtual_loss: loss that a leaf in flight is counted as; `None` counts its visit
            in the exploration term alone.
        root_visit: what a root's own evaluation counts as: a visit with its `"value"`,
            a visit of `"zero"`, or `"none"`.
        solve: best value there is; given, nodes are proven from terminal ones.
        max_failures: failed evaluations after which a node is given up.
        **options: options of the rule, such as `c_puct`.

    Raises:
        OptionError: an unknown rule or option, or one out of its range.
    """

    def __init__(
        self,
        num_roots: int,
        max_nodes: int,
        *,
        rule: str = "puct",
        num_simulations: int | None = None,
        max_depth: int | None = None,
        gamma: float = 1.0,
        seed: int = 0,
        virtual_loss: float | None = None,
        root_visit: str = "value",
        solve: float | None = None,
        max_failures: int = 3,
        **options: Any,
    ) -> None:
        """A forest of `num_roots` unevaluated roots."""
        limits = {
            "num_roots": num_roots,
            "max_nodes": max_nodes,
            "num_simulations": max_nodes if num_simulations is None else num_simulations,
            "max_depth": 2**32 - 1 if max_depth is None else max_depth,
            "gamma": gamma,
            "seed": seed,
            "virtual_loss": virtual_loss,
            "root_visit": root_visit,
            "solve": solve,
            "max_failures": max_failures,
        }
        self._forest = _core.Forest(rule, options, limits)
        self._timeline = Timeline()

    def select(self, batch_size: int, *, per_tree: int | None = None) -> Leaves:
        """Up to `batch_size` leaves across all trees, up to `per_tree` of one.

        Empty when every budget is spent, or when what could be asked waits for answers.
        By default trees get even shares of the batch.
        """
        size = _count("batch_size", batch_size)
        share = 0 if per_tree is None else _count("per_tree", per_tree)
        found = self._forest.select(size, share, get_num_threads())
        return Leaves(**found, _forest=self._forest)

    def expand(
        self,
        leaves: Leaves | Any,
        *,
        values: Any,
        priors: Any = None,
        children: Any = None,
        masked: Any = None,
        rewards: Any = None,
        terminal: Any = None,
    ) -> None:
        """Give answers, in any order; refused as a whole if one does not fit.

        Args:
            leaves: leaves from `select`, or their tickets.
            values: `(n,)` values, from the side of whoever moves at the leaf.
            priors: `(n, A)` priors of children, or `n` rows of any lengths.
            children: `(n,)` numbers of children, or one number, for equal priors. Without
                priors and children a leaf gets no children.
            masked: as `priors`, true for children that are no choice: they are there, but
                never entered.
            rewards: `(n,)` rewards of the edges into the leaves; default 0.
            terminal: `(n,)` whether leaves are ends, whose value is exact.

        Raises:
            InputError: an unknown or repeated ticket, a wrong length, a value that is
                not finite; names the argument and the index.
        """
        tickets = _tickets(leaves)
        counts, flat = _children(len(tickets), priors, children)
        self._forest.expand(
            tickets,
            _vector("values", values),
            counts,
            flat,
            None if masked is None else _flags("masked", _rows("masked", masked)[1]),
            None if rewards is None else _vector("rewards", rewards),
            None if terminal is None else _flags("terminal", terminal),
        )
        self._timeline.note(answered=len(tickets), nodes=int(counts.sum()))

    def fail(self, leaves: Leaves | Any) -> None:
        """Give leaves back without an answer: no visit is counted, they may be asked again."""
        tickets = _tickets(leaves)
        self._forest.fail(tickets)
        self._timeline.note(failed=len(tickets))

    def run(
        self,
        evaluate: Callable[[Leaves], Mapping[str, Any]],
        *,
        batch_size: int = 256,
        per_tree: int | None = None,
        on_error: str = "raise",
    ) -> None:
        """Search until the budgets are spent.

        Args:
            evaluate: takes leaves, returns the keyword arguments of `expand`.
            batch_size: leaves asked for at once.
            per_tree: as in `select`.
            on_error: what an exception of `evaluate` does: `"raise"` gives the leaves back
                and raises it, `"fail"` gives them back and goes on.
        """
        if on_error not in ("raise", "fail"):
            raise OptionError(f"run: option on_error: got {on_error!r}, expected 'raise' or 'fail'")
        while leaves := self.select(batch_size, per_tree=per_tree):
            try:
                self.expand(leaves, **evaluate(leaves))
            except Exception:
                self.fail(leaves)
                if on_error == "raise":
                    raise

    @property
    def in_flight(self) -> int:
        """Leaves that wait for an answer."""
        return self._forest.in_flight()

    @property
    def simulations(self) -> Array:
        """`(num_roots,)` simulations finished."""
        return self._forest.simulations()

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

    def child_values(self, tree: int, node: int, *, how: str = "mean") -> Array:
        """Values of a node's children, in order.

        `"mean"`: mean returns, 0 where unvisited. `"scaled"`: mapped to 0..1 over the
        node's own value and the visited children, as `muzero` compares them.
        `"completed"`: as `gumbel` compares them, with its default options.
        """
        return self._forest.child_values(tree, node, how)

    def policy(self) -> tuple[Array, list[Array]]:
        """Each root's recommended child, and the probabilities of its children."""
        return self._forest.policy()


def search_rules() -> list[dict[str, Any]]:
    """Every rule of selection: name, formula and source, options with defaults."""
    return _core.search_rules()


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}: got {value!r}, expected an integer of at least 1")
    return int(value)


def _tickets(leaves: Leaves | Any) -> Array:
    tickets = integers("tickets", leaves.ticket if isinstance(leaves, Leaves) else leaves)
    if tickets.ndim != 1:
        raise InputError(f"tickets: got shape {tickets.shape}, expected one dimension")
    return tickets


def _vector(name: str, values: Any) -> Array:
    array = floats(name, values).astype(np.float64, copy=False)
    if array.ndim != 1:
        raise InputError(f"{name}: got shape {array.shape}, expected one dimension")
    return array


def _flags(name: str, values: Any) -> Array:
    array = to_numpy(name, values)
    if array.ndim != 1 or (array.size and not np.isin(array, (0, 1)).all()):
        raise InputError(f"{name}: expected one dimension of booleans")
    return np.ascontiguousarray(array, dtype=np.bool_)


def _children(count: int, priors: Any, children: Any) -> tuple[Array, Array | None]:
    """Numbers of children and their priors, flat."""
    if priors is not None and children is not None:
        raise InputError("children: give it or priors, not both")
    if priors is not None:
        return _rows("priors", priors)
    if children is None:
        return np.zeros(count, dtype=np.int64), None
    counts = integers("children", children)
    counts = np.full(count, counts) if counts.ndim == 0 else counts
    if counts.ndim != 1 or (counts < 0).any():
        raise InputError("children: expected one dimension of integers of at least 0")
    return counts, None


def _rows(name: str, values: Any) -> tuple[Array, Array]:
    """Lengths of rows and the rows one after the other, of a table or a list of rows."""
    if not isinstance(values, Sequence):
        table = floats(name, values).astype(np.float64, copy=False)
        if table.ndim != 2:
            raise InputError(f"{name}: got shape {table.shape}, expected (leaves, children)")
        return np.full(len(table), table.shape[1], dtype=np.int64), table.reshape(-1)
    rows = [_vector(f"{name}[{i}]", row) for i, row in enumerate(values)]
    flat = np.concatenate(rows) if rows else np.zeros(0)
    return np.array([len(row) for row in rows], dtype=np.int64), flat


def considered_visits(considered: int, simulations: int) -> Array:
    """`(simulations,)` visits that sequential halving wants of the child chosen next.

    At simulation `i` a root under `gumbel` chooses among children with so many visits,
    `considered` of them at first (Danihelka et al. 2022, mctx `seq_halving.py`).
    """
    return _core.considered_visits(
        _count("considered", considered), _count("simulations", simulations)
    )
