"""A search's trees as one sequence to train on. Depends on `rows`, `credit` and `tree_credit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion import _core
from apportion.arrays import Array, int_vector
from apportion.credit import Credit
from apportion.errors import InputError
from apportion.search.rows import Found, all_parents, token_lengths, trained_rows, tree_starts
from apportion.tree_credit import PackedTree


@dataclass(frozen=True, eq=False)
class PackedSearch(PackedTree):
    """The trees of a search as one sequence, see `PackedTree`, with what a policy is trained on.

    A tree begins with its prompt; what was never visited is left out, whole trees among it.
    One row a token: `tokens` are the ids, `tree` says of which tree, `loss_mask` is 0 in prompts
    and 1 elsewhere, `advantages` are the credit, 0 in prompts, `log_probs` those that the search
    was told, NaN where it was not. `paths` is how many answers go through the token: a loss
    weighted by it has the gradient of all answers read one by one.
    """

    tokens: Array
    tree: Array
    loss_mask: Array
    advantages: Array
    log_probs: Array
    paths: Array


def pack_search(
    found: Found, tokens: Array, log_probs: Array, credit: Credit, prompts: Sequence[Any]
) -> PackedSearch:
    """See `Search.pack`; `tokens` and `log_probs` are those of nodes, then of rollouts."""
    if not isinstance(credit, Credit):
        raise InputError(f"credit: got {type(credit).__name__}, expected what `credit` gives")
    lengths, parents = token_lengths(found), all_parents(found)
    if not len(tokens):
        raise InputError("pack: the search was told no tokens, expected `tokens` with its answers")
    advantages = credit.tokens()
    if len(advantages) != len(tokens):
        raise InputError(
            f"credit: got {len(advantages)} tokens, expected {len(tokens)}, "
            "credit of this search as it is now"
        )
    asked = _prompts(prompts, len(found.nodes.offsets) - 1)
    paths = _paths(parents, trained_rows(found))
    kept = np.flatnonzero(paths)

    # Rows that are left, with prompts, which lie behind all other tokens, as those of roots.
    starts = np.cumsum(lengths) - lengths
    roots = found.nodes.offsets[:-1]
    lengths[roots] = list(map(len, asked))
    starts[roots] = len(tokens) + np.cumsum(lengths[roots]) - lengths[roots]
    number = np.full(len(parents), -1)
    number[kept] = np.arange(len(kept))
    above = np.where(parents[kept] < 0, -1, number[parents[kept]])
    offsets = np.concatenate([[0], np.cumsum(lengths[kept])])
    packed = PackedTree(*_core.pack_tree(above, offsets))

    row = kept[packed.node]
    place = starts[row] + packed.source - offsets[packed.node]
    of_prompts = sum(map(len, asked))
    flat = np.concatenate([tokens, *asked])
    tree = np.searchsorted(roots, tree_starts(found), side="right") - 1
    return PackedSearch(
        **vars(packed),
        tokens=flat[place].astype(np.int64),
        tree=tree[row],
        loss_mask=(place < len(tokens)).astype(np.uint8),
        advantages=np.concatenate([advantages, np.zeros(of_prompts, advantages.dtype)])[place],
        log_probs=np.concatenate([log_probs, np.full(of_prompts, np.nan, np.float32)])[place],
        paths=paths[row],
    )


def _prompts(prompts: Sequence[Any], trees: int) -> list[Array]:
    got = len(prompts) if hasattr(prompts, "__len__") else type(prompts).__name__
    if got != trees:
        raise InputError(f"prompts: got {got}, expected {trees}, one for each tree")
    return [int_vector(f"prompts[{i}]", prompt) for i, prompt in enumerate(prompts)]


def _paths(parents: Array, trained: Array) -> Array:
    """How many answers go through each row: rows that are trained and have none below."""
    paths, above = [0] * len(parents), parents.tolist()
    for row in range(len(above) - 1, -1, -1):  # rollouts, then nodes: parents come later
        if trained[row] and not paths[row]:
            paths[row] = 1
        if above[row] >= 0:
            paths[above[row]] += paths[row]
    return np.array(paths, dtype=np.int64)
