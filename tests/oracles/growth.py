"""Rules that grow trees, in plain Python: what each asks in turn, and what its nodes end with.

Nodes are numbered as they come; the first is the root. A replay returns the requests in
their order and, a row a node, visits and sums of values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from .draws import bits
from .rules import Path

Stats = list[tuple[int, float]]


@dataclass
class Node:
    """A node, whatever is known of it."""

    path: Path
    parent: int
    children: list[int] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    ended: bool = False
    value: float = 0.0


def backed_up(nodes: list[Node], at: int, value: float) -> None:
    while at >= 0:
        nodes[at].visits += 1
        nodes[at].total += value
        at = nodes[at].parent


def stats(nodes: list[Node]) -> Stats:
    return [(node.visits, node.total) for node in nodes]


def rstar(
    evaluate: Callable[[Path], tuple[float, int, bool]],
    simulations: int, c: float, decay: str, seed: int, tree: int,
) -> tuple[list[int], Stats]:  # fmt: skip
    """`evaluate` gives a path's value, its children and whether it is an end."""
    nodes, asked, done = [Node((), -1)], [], -1  # the root's own evaluation is no simulation
    while done < simulations:
        at = 0
        while nodes[at].children:
            fresh = [child for child in nodes[at].children if nodes[child].visits == 0]
            if fresh:
                at = fresh[bits(seed, tree, at, "rstar", len(fresh)) % len(fresh)]
                continue
            share = done / simulations
            weight = (
                c * {"constant": 1.0, "linear": 1 - 0.9 * share, "exponential": 0.1**share}[decay]
            )
            log = math.log(nodes[at].visits)
            bound = {
                child: nodes[child].total / nodes[child].visits
                + weight * math.sqrt(log / nodes[child].visits)
                for child in nodes[at].children
            }
            at = max(bound, key=lambda child: bound[child])
        if not nodes[at].ended:
            asked.append(at)
            nodes[at].value, width, nodes[at].ended = evaluate(nodes[at].path)
            for i in range(0 if nodes[at].ended else width):
                nodes[at].children.append(len(nodes))
                nodes.append(Node((*nodes[at].path, i), at))
        backed_up(nodes, at, nodes[at].value)
        done += 1
    return asked, stats(nodes)


@dataclass
class Piece:
    """What of a rollout lies behind a node."""

    node: int
    tokens: Path
    log_probs: tuple[float, ...]
    reward: float
    whole: bool = True


Sampler = Callable[[Path, int, int], list[tuple[Path, tuple[float, ...], float]]]
Places = list[tuple[int, int]]


class Branches:
    """Rollouts that branch: `sample(prefix, want, time)` gives them from a prefix."""

    def __init__(self, sample: Sampler) -> None:
        self.sample = sample
        self.nodes = [Node((), -1)]
        self.pieces: list[Piece] = []
        self.asked: list[tuple[Path, int]] = []

    def ask(self, node: int, want: int) -> None:
        path = self.nodes[node].path
        for told in self.sample(path, want, len(self.asked)):
            self.pieces.append(Piece(node, *told))
        self.asked.append((path, want))

    def cut(self, places: Places) -> list[int]:
        """Cuts before tokens of pieces, from the first piece on; the nodes as they were given."""
        found: dict[tuple[int, int], int] = {}
        for number in sorted({piece for piece, _ in places}):
            at, before = number, 0
            for token in sorted({token for piece, token in places if piece == number}):
                old, end = self.pieces[at], token - before
                new = len(self.nodes)
                path = (*self.nodes[old.node].path, *old.tokens[:end])
                self.nodes.append(Node(path, old.node))
                old.whole = False
                at, before = len(self.pieces), token
                rest = Piece(new, old.tokens[end:], old.log_probs[end:], old.reward)
                self.pieces.append(rest)
                found[number, token] = new
        return [found[place] for place in places]

    def stats(self) -> Stats:
        """A node's visits are the rollouts that pass through it."""
        for node in self.nodes:
            node.visits, node.total = 0, 0.0
        for piece in self.pieces:
            if piece.whole:
                backed_up(self.nodes, piece.node, piece.reward)
        return stats(self.nodes)


def treerl(
    sample: Sampler, chains: int, tokens: int, branches: int, rounds: int
) -> tuple[list[tuple[Path, int]], Stats]:
    grown = Branches(sample)
    grown.ask(0, chains)
    for _ in range(rounds):
        unsure = [
            (log_prob, number, at)
            for number, piece in enumerate(grown.pieces)
            if piece.whole
            for at, log_prob in enumerate(piece.log_probs)
            if at > 0 and log_prob < 0
        ]
        unsure.sort()
        for node in grown.cut([(number, at) for _, number, at in unsure[:tokens]]):
            grown.ask(node, branches)
        if not unsure:
            break
    return grown.asked, grown.stats()


def tree_grpo(
    sample: Sampler, expansions: int, rounds: int, end: int | None, seed: int, tree: int
) -> tuple[list[tuple[Path, int]], Stats]:
    grown = Branches(sample)
    grown.ask(0, 1)
    for turn in range(1, rounds + 1):
        inner: list[int | tuple[int, int]] = list(range(len(grown.nodes)))
        for number, piece in enumerate(grown.pieces):
            if piece.whole:
                ends = range(1, len(piece.tokens))
                inner += [(number, at) for at in ends if end in (None, piece.tokens[at - 1])]
        numbers = [turn * expansions + i for i in range(expansions)]
        drawn = [inner[bits(seed, tree, 0, "tree_grpo", i) % len(inner)] for i in numbers]
        cut = iter(grown.cut([place for place in drawn if isinstance(place, tuple)]))
        for node in [place if isinstance(place, int) else next(cut) for place in drawn]:
            grown.ask(node, 1)
    return grown.asked, grown.stats()


Steps = Callable[[Path, int], list[tuple[float, bool, int]]]
"""Of each of so many steps after a path: its value, whether it is an end, and its key."""


class Segments:
    """Nodes that are asked for their children."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.nodes = [Node((), -1)]
        self.asked: list[tuple[int, int]] = []

    def ask(self, at: int, want: int) -> list[tuple[int, int]]:
        """The new nodes that are no ends, with their keys."""
        self.asked.append((at, want))
        going_on = []
        for i, (value, end, key) in enumerate(self.steps(self.nodes[at].path, want)):
            new = len(self.nodes)
            self.nodes.append(Node((*self.nodes[at].path, i), at, ended=end))
            if end:
                backed_up(self.nodes, new, value)
            else:
                going_on.append((new, key))
        return going_on


def treepo(
    steps: Steps, divergence: int, first: tuple[int, int], depth: int, trajectories: int,
    seed: int, tree: int,
) -> tuple[list[tuple[int, int]], Stats]:  # fmt: skip
    grown, low, high = Segments(steps), min(first), first[1]
    drawn = low + bits(seed, tree, 0, "treepo", 0) % (high - low + 1)
    level = [0]
    for at_depth in range(depth):
        ended = sum(node.ended for node in grown.nodes)
        # As many paths as there is room for, dealt out one by one; each node goes on.
        room = max(trajectories - ended, len(level))
        widths = [0] * len(level)
        for i in range(min(room, divergence * len(level))):
            widths[i % len(level)] += 1
        if at_depth == 0:
            widths = [min(drawn, trajectories)]
        below = [grown.ask(node, width) for node, width in zip(level, widths, strict=True)]
        level = [node for nodes in below for node, _ in nodes]
        if not level:
            break
    return grown.asked, stats(grown.nodes)


def spo_tree(steps: Steps, widths: list[int]) -> tuple[list[tuple[int, int]], Stats]:
    grown, level = Segments(steps), [0]
    for width in widths:
        level = [new for node in level for new, _ in grown.ask(node, width)]
    return grown.asked, stats(grown.nodes)


def tree_ps_rag(steps: Steps, width: int, depth: int) -> tuple[list[tuple[int, int]], Stats]:
    grown, level = Segments(steps), [0]
    for _ in range(depth):
        below = []
        for node in level:
            keys = [key for *_, key in steps(grown.nodes[node].path, width)]
            first = {keys.index(key) for key in keys}
            new = grown.ask(node, width)
            below += [n for n, _ in new if grown.nodes[n].path[-1] in first]
        level = below
    return grown.asked, stats(grown.nodes)


def confidence(
    sample: Callable[[Path, int, int], list[tuple[Path, float]]],
    solutions: int, rollouts: int, width: float, low: float, high: float, end: int | None,
    budget: int,
) -> tuple[list[Path], dict[Path, list[float]]]:  # fmt: skip
    """Prefixes in the order in which they are asked, and the rewards from each."""

    def interval(found: list[float]) -> float:
        all_rewards = [*found, low, low, high, high]
        mean = sum(all_rewards) / len(all_rewards)
        variance = sum((x - mean) ** 2 for x in all_rewards) / len(all_rewards)
        return float(2 * 1.959963984540054 * math.sqrt(variance / len(all_rewards)))

    first = sample((), solutions, 0)
    asked: list[Path] = [()]
    rewards = {(): [reward for _, reward in first]}
    for tokens, _ in first:
        for at in range(1, len(tokens)):
            if end in (None, tokens[at - 1]):
                rewards.setdefault(tokens[:at], [])
    while sum(map(len, rewards.values())) < budget:
        # Rounded, because what is equal on paper may differ in the last digit.
        widths = {prefix: round(interval(found), 9) for prefix, found in rewards.items()}
        widest = max(widths, key=lambda prefix: widths[prefix])
        if widths[widest] <= width:
            break
        found = [reward for _, reward in sample(widest, rollouts, len(asked))]
        rewards[widest] += found[: budget - sum(map(len, rewards.values()))]  # what has room
        asked.append(widest)
    return asked, rewards
