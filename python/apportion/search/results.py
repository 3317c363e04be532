"""What can be read from a search: nodes, tokens, rollouts, credit, pictures. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion import _core
from apportion.arrays import Array, index
from apportion.search.data import Nodes, SearchRollouts

if TYPE_CHECKING:
    from apportion.credit import Credit
    from apportion.search.packing import PackedSearch
    from apportion.search.rows import Found


class Results:
    """What a forest has found so far."""

    _forest: _core.Forest
    num_roots: int
    gamma: float

    def nodes(self) -> Nodes:
        """Every node's statistics."""
        return Nodes(**self._forest.nodes())

    def tokens(self) -> tuple[Array, Array]:
        """Tokens of the edge into each node, one after the other, and `(nodes + 1,)`
        offsets, in the order of `nodes()`."""
        return self._forest.tokens()

    def log_probs(self) -> Array:
        """`(tokens,)` float32 log-prob of each token of `tokens()`, NaN where none was told."""
        return self._forest.log_probs()

    def child_scores(self) -> tuple[Array, Array]:
        """Scores that were told with each node when its parent was answered, one after the
        other, and `(nodes + 1,)` offsets, in the order of `nodes()`."""
        return self._forest.child_scores()

    def rollouts(self) -> SearchRollouts:
        """Every rollout."""
        return SearchRollouts(**self._forest.rollouts())

    def credit(
        self, method: str, *, value_mode: str, own_share: float = 0.0, **options: Any
    ) -> Credit:
        """Credit read from the trees: what each edge added.

        A row is a node, in the order of `nodes()`, then a rollout, in that of `rollouts()`,
        as a leaf below its node; tokens are those of `tokens()`, then those of rollouts, or
        one an edge and one a rollout where the search was told none. What was never visited
        gets 0 and is masked. Under rules that compare scores and visit nothing (beams) that
        is what has neither a score nor children.

        Args:
            method: a method that reads trees: `"spo"`, `"treerl"`, `"tree_grpo"`,
                `"treepo"`, `"vineppo"` or `"tree_ps_rag"`.
            value_mode: a node's value, as a return from the root: the mean over the
                evaluated leaves and rollouts below (`"leaf"`), the unweighted mean over
                the visited children (`"child"`), the largest of them (`"max"`), the
                mean of everything backed up through the node (`"visit"`), what the node
                itself was told to be worth, as by a process reward model (`"own"`), or the
                mean of the rollouts that began at it (`"rollout"`). By the last two a node
                without such a value has the mean of the next ones below that have one.
                Where the method reads leaves alone (`treerl`, `tree_grpo` but for
                `mode="tree_diff"`, `treepo` but for `form="segment"`) only `"leaf"`.
            own_share: weight from 0 to 1 of what a node itself was told to be worth in its
                value, the rest being that of `value_mode` (Silver et al. 2016, where a leaf
                has `(1 - lambda) v + lambda z`; `own_share` is `1 - lambda`). Where one of
                the two is not known, the other is taken.
            **options: options of the method.

        Raises:
            OptionError: a method that reads no trees, a `value_mode` that it has not, or
                `"visit"` where nothing was visited.
        """
        from apportion.search.rows import credit_of_nodes

        return credit_of_nodes(self._found(), method, value_mode, own_share, options)

    def pack(self, credit: Credit, prompts: Sequence[Any]) -> PackedSearch:
        """The trees as one sequence to train on, in which each shared prefix stands once.

        Args:
            credit: what `credit` gave for this search as it is now.
            prompts: token ids of each tree's prompt.

        Raises:
            InputError: a search that was told no tokens; credit of another search; prompts that
                are not one for each tree.
        """
        from apportion.search.packing import pack_search

        rollouts = self.rollouts()
        tokens = np.concatenate([self.tokens()[0], rollouts.tokens])
        log_probs = np.concatenate([self.log_probs(), rollouts.log_probs])
        return pack_search(self._found(), tokens, log_probs, credit, prompts)

    def _found(self) -> Found:
        from apportion.search.rows import Found

        return Found(self.nodes(), self.rollouts(), self.tokens()[1], float(self.gamma))

    def child_values(self, tree: int, node: int, *, how: str = "mean") -> Array:
        """Values of a node's children, in order.

        `"mean"`: mean returns, 0 where unvisited. `"scaled"`: mapped to 0..1 over the
        node's own value and the visited children, as `muzero` compares them.
        `"completed"`: as `gumbel` compares them, with its default options. `"score"`: what
        the search's rule compares; empty where it has no one number for a child.
        """
        tree, node = index("tree", tree, self.num_roots), index("node", node, 2**32 - 1)
        return self._forest.child_values(tree, node, str(how))

    def finals(self, tree: int) -> Array:
        """Nodes that a tree's search ends with, in the rule's order.

        The beams or paths of beam rules, the best path's end of `llm_reasoners`; empty for
        rules that only gather statistics.
        """
        return self._forest.finals(index("tree", tree, self.num_roots))

    def bisections(self, tree: int) -> list[tuple[int, list[int], list[int]]]:
        """The searches of a pool rule in order: the rollout, the good and the bad prefixes.

        Prefixes are nodes; the error lies between the last good one (where there is none,
        the node that the rollout began at) and the last bad one.
        """
        found: list[tuple[int, list[int], list[int]]] = []
        tree = index("tree", tree, self.num_roots)
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
