"""Trees that came from elsewhere, as parents of nodes: values, labels, packed sequences.

`parents` is `(nodes,)`: each node's parent, which comes before it, or -1 for a root; several
trees may lie in one array. Credit is read from such trees by `apportion.credit` on
`Rollouts.from_tree`; this module has what leads there and what training needs besides.
Depends on `arrays`, `errors` and the core.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion import _core
from apportion.arrays import (
    Array,
    Origin,
    device_of,
    floats,
    int_vector,
    is_tensor,
    to_numpy,
    vector,
)
from apportion.errors import InputError, OptionError


def node_values(parents: Any, values: Any, *, value_mode: str, visits: Any = None) -> Array:
    """Values of all nodes from those of leaves, `(nodes,)`.

    Args:
        parents: `(nodes,)` parents.
        values: `(nodes,)`; only those of leaves are read. NaN is absent: such a leaf enters no
            mean, and a node with nothing else below has the value NaN.
        value_mode: `"leaf"`: mean over the leaves below. `"child"`: unweighted mean over
            the children. `"visit"`: mean over the children weighted by visits. `"max"`:
            largest of the children. They differ on trees that are not even.
        visits: `(nodes,)`, for `"visit"`.

    Raises:
        InputError: a parent that does not come before its child, a leaf's value that is
            infinite, a wrong length.
    """
    weights = None if visits is None else vector("visits", visits)
    if value_mode == "visit" and weights is None:
        raise OptionError("node_values: option value_mode: got 'visit', expected visits with it")
    nodes, given = int_vector("parents", parents), vector("values", values)
    return _core.node_values(nodes, given, weights, value_mode)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of siblings of which one is worth more, one row each.

    `parent` is the node that both continue, `chosen` the one of the larger value, `margin`
    the difference of their values.
    """

    parent: Array
    chosen: Array
    rejected: Array
    margin: Array

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.parent)


def preference_pairs(
    parents: Any, values: Any, *, margin: float = 0.0, of: str = "extremes"
) -> Pairs:
    """Siblings whose values differ by more than `margin`, in the order of their parents.

    Args:
        parents: `(nodes,)` parents.
        values: `(nodes,)` values, as from `node_values`. A node of value NaN makes no pair.
        margin: difference above which two siblings are a pair.
        of: `"extremes"`: the best and the worst child of each node, of equal ones the
            first. `"all"`: every two children.
    """
    nodes, given = int_vector("parents", parents), vector("values", values)
    return Pairs(*_core.sibling_pairs(nodes, given, _finite("margin", margin), of))


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of steps for a process reward model, one row a node.

    `soft` is the value itself, NaN where it is absent; `hard` is 1 where it is above the
    threshold, 0 where not, -1 where it is absent. `first_error` is the first node with hard
    label 0 on the way from the root to this one, itself included and the root not, and
    `first_error_step` how many steps come before that node, -1 twice where there is none.
    """

    soft: Array
    hard: Array
    first_error: Array
    first_error_step: Array


def step_labels(parents: Any, values: Any, *, threshold: float = 0.0) -> Labels:
    """Labels of steps from values of nodes (Wang et al. 2024, Math-Shepherd).

    With shares of right answers as values, threshold 0 says that a step is good if any
    answer that grew from it was right.
    """
    nodes, given = int_vector("parents", parents), vector("values", values)
    error, step = _core.first_errors(nodes, given, _finite("threshold", threshold))
    hard = np.where(np.isnan(given), -1, given > threshold).astype(np.int64)
    return Labels(given, hard, error, step)


@dataclass(frozen=True, eq=False)
class Segments:
    """Chains cut into a tree where others branch from them; node 0 is a root of no tokens.

    `parents`, `lengths` and `chains` (whose segment it is, -1 at the root) are per node,
    `leaves` is per chain: the node in which it ends.
    """

    parents: Array
    lengths: Array
    chains: Array
    leaves: Array


def cut_chains(parents: Any, splits: Any, lengths: Any) -> Segments:
    """Cut the sampled chains of one prompt into a tree of segments.

    Args:
        parents: `(chains,)` earlier chain from which each branches, -1 for none.
        splits: `(chains,)` tokens of that chain that come before the branch.
        lengths: `(chains,)` tokens of each chain after its branch.
    """
    given = (("parents", parents), ("splits", splits), ("lengths", lengths))
    return Segments(*_core.cut_chains(*(int_vector(name, values) for name, values in given)))


def cut_points(
    log_probs: Any, token_offsets: Any, *, max_prob: float = 0.9, every: int = 5
) -> list[list[tuple[int, int]]]:
    """Spans of the segments of SPO-chain, as `turn_spans` takes them.

    A token of a probability below `max_prob` is a cut point; a segment starts at one and
    holds `every` of them (Guo et al. 2025, arXiv:2505.23564); the first starts with the row.

    Args:
        log_probs: `(tokens,)` log-probabilities, flat.
        token_offsets: `(rows + 1,)` where each row starts.
        max_prob: probability below which a token is a cut point.
        every: cut points of a segment.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise OptionError(f"cut_points: option every: got {every!r}, expected an integer above 0")
    flat, offsets = vector("log_probs", log_probs), int_vector("token_offsets", token_offsets)
    if (
        len(offsets) == 0
        or offsets[0] != 0
        or offsets[-1] != len(flat)
        or np.any(np.diff(offsets) < 0)
    ):
        raise InputError(f"token_offsets: expected ascending from 0 to {len(flat)}")
    bad = np.flatnonzero(~np.isfinite(flat))
    if bad.size:
        raise InputError(f"log_probs[{bad[0]}]: got {flat[bad[0]]}, expected a finite number")
    spans = []
    for start, end in itertools.pairwise(offsets):
        points = np.flatnonzero(np.exp(flat[start:end]) < max_prob)
        bounds = [0, *points[every::every], end - start]
        spans.append([(int(a), int(b)) for a, b in itertools.pairwise(bounds) if b > a])
    return spans


def to_tokens(
    values: Any,
    token_offsets: Any,
    *,
    on: str = "all",
    log_probs: Any = None,
    max_prob: float = 0.9,
    entropies: Any = None,
    min_entropy: float | None = None,
) -> Any:
    """Values of segments at their tokens, `(tokens,)`, in kind; 0 at the others.

    Args:
        values: `(segments,)` credit, one a node, turn or step; NumPy or torch.
        token_offsets: `(segments + 1,)` where each segment's tokens start.
        on: `"all"`: at each token. `"last"`: at the segment's last, as a reward of a step is
            given. `"unlikely"`: at tokens of a probability below `max_prob`, where the text
            could have gone on otherwise (Guo et al. 2025, SPO's probability mask).
            `"uncertain"`: at tokens where the policy's entropy is at least `min_entropy`.
        log_probs: `(tokens,)`, for `"unlikely"`; a token of NaN gets 0.
        max_prob: for `"unlikely"`.
        entropies: `(tokens,)`, for `"uncertain"`.
        min_entropy: for `"uncertain"`.

    Raises:
        InputError: offsets or lengths that do not fit.
        OptionError: another `on`, or what it needs is not given.
    """
    given, offsets = floats("values", values), int_vector("token_offsets", token_offsets)
    if given.ndim != 1 or len(offsets) != len(given) + 1:
        expected = f"({max(len(offsets) - 1, 0)},), one fewer than token_offsets"
        raise InputError(f"values: got shape {given.shape}, expected {expected}")
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise InputError("token_offsets: expected ascending from 0")
    out = np.repeat(given, np.diff(offsets))
    if on == "last":
        kept = np.zeros(len(out), dtype=np.bool_)
        kept[offsets[1:][np.diff(offsets) > 0] - 1] = True
    elif on == "unlikely":
        kept = np.exp(_of_tokens("log_probs", log_probs, len(out), on)) < max_prob
    elif on == "uncertain":
        if min_entropy is None:
            raise OptionError("to_tokens: option on: got 'uncertain', expected min_entropy with it")
        kept = _of_tokens("entropies", entropies, len(out), on) >= min_entropy
    elif on == "all":
        kept = np.ones(len(out), dtype=np.bool_)
    else:
        expected = "'all', 'last', 'unlikely' or 'uncertain'"
        raise OptionError(f"to_tokens: option on: got {on!r}, expected {expected}")
    out[~kept] = 0
    return Origin(device=device_of(values)).restore(out)


def _of_tokens(name: str, values: Any, count: int, on: str) -> Array:
    if values is None:
        raise OptionError(f"to_tokens: option on: got {on!r}, expected {name} with it")
    array = vector(name, values)
    if len(array) != count:
        raise InputError(f"{name}: got {len(array)} values, expected {count}, one a token")
    return array


@dataclass(frozen=True, eq=False)
class PackedTree:
    """A forest as one sequence in which each shared prefix stands once, depth first.

    One row a token: `source` is where it stands in the flat tokens that were packed, `node`
    whose it is, `position` how many tokens precede it on its path (its position id),
    `parent` the place of the token before it on its path, -1 at a tree's first. The logits
    at `parent` predict the token: in a packed sequence that is not always the place before.

    The tokens below a token are those that follow it up to `end`: the attention mask is
    the interval `key <= query < end[key]` for each key.
    """

    source: Array
    node: Array
    position: Array
    parent: Array
    end: Array

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.source)

    def gather(self, flat: Any) -> Any:
        """Values of the flat tokens (ids, log-probs, credit) in packed order, in kind."""
        values = flat if is_tensor(flat) else to_numpy("flat", flat)
        if tuple(values.shape) != (len(self),):
            raise InputError(f"flat: got shape {tuple(values.shape)}, expected ({len(self)},)")
        if is_tensor(flat):
            import torch

            return flat[torch.from_numpy(self.source).to(flat.device)]
        return values[self.source]

    def attention_mask(self) -> Array:
        """`(tokens, tokens)` booleans: whether the query of a row sees the key of a column."""
        places = np.arange(len(self))
        return (places[None, :] <= places[:, None]) & (places[:, None] < self.end[None, :])


def pack(parents: Any, token_offsets: Any) -> PackedTree:
    """Lay nodes out as one sequence that a transformer reads with each prefix once.

    Trees follow one another and do not see each other; children follow their parent in
    their order.

    Args:
        parents: `(nodes,)` parents.
        token_offsets: `(nodes + 1,)` where each node's own tokens start in the flat tokens.
    """
    return PackedTree(
        *_core.pack_tree(int_vector("parents", parents), int_vector("token_offsets", token_offsets))
    )


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise OptionError(f"option {name}: got {value!r}, expected a number")
    if not np.isfinite(value):
        raise OptionError(f"option {name}: got {value!r}, expected a finite number")
    return float(value)
