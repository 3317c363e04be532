"""Rules of search in plain Python, slow and without a tree in arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Path = tuple[int, ...]


def scores(
    rule: str, visits: Sequence[int], sums: Sequence[float], priors: Sequence[float],
    values: Sequence[float], c: float, gamma: float = 1.0,
) -> list[float]:  # fmt: skip
    """Scores of a node's children, the node having as many visits as they have together."""
    parent = sum(visits)
    log = math.log(max(parent, 1))
    out = []
    for n, w, p, v in zip(visits, sums, priors, values, strict=True):
        q = w / n if n else 0.0
        explore = c * p * math.sqrt(parent) / (1 + n)
        if rule in ("puct", "alphamath"):
            out.append(q + explore)
        elif rule == "prorag":
            even = c / len(visits) * math.sqrt(parent) / (1 + n)
            out.append(w / gamma / (n + 1e-8) + even)
        elif rule == "rstar_math":
            out.append(q + c * math.sqrt(log / n) if n else 0.0)
        elif rule in ("uct", "groundedprm"):
            out.append(q + c * math.sqrt(log / n) if n else math.inf)
        elif rule == "propa":
            out.append(q + c * math.sqrt(2 * log / n) if n else math.inf)
        elif rule == "rest_mcts":
            out.append(q + c * math.sqrt(2 * log / n) if n else v + 1.0)
        elif rule == "llm_reasoners":
            out.append((q if n else v) + c * math.sqrt(log / max(1, n)))
    return out


def beams(
    next_steps: Callable[[Path, int], list[tuple[float, bool]]],
    worth: Callable[[list[float]], float], keep: int, width: int, rounds: int,
) -> list[Path]:  # fmt: skip
    """Paths that a search ends with in which the `keep` best of all go on."""
    level: list[tuple[Path, list[float], bool]] = [((), [], False)]
    for _ in range(rounds):
        if all(ended for *_, ended in level):
            break
        found = [one for one in level if one[2]]
        for path, own, ended in level:
            if not ended:
                for i, (score, end) in enumerate(next_steps(path, width)):
                    found.append(((*path, i), [*own, score], end))
        found.sort(key=lambda one: -worth(one[1]))
        level = found[:keep]
        level = [one for one in level if one[2]] + [one for one in level if not one[2]]
    level.sort(key=lambda one: -worth(one[1]))
    return [path for path, *_ in level]


def omegaprm(
    sample: Callable[[Path], list[tuple[Path, bool]]], searches: int, min_span: int,
) -> tuple[dict[Path, float], list[tuple[Path, Path, Path]]]:  # fmt: skip
    """`MC` of every estimated prefix, and of each search the rollout with its bounds."""
    mc: dict[Path, float] = {}
    pool: list[list[tuple[Path, bool]]] = []
    order: list[Path] = []
    visits: dict[Path, int] = {}
    searched: set[tuple[Path, int]] = set()

    def estimate(prefix: Path) -> float:
        if prefix not in mc:
            rollouts = sample(prefix)
            mc[prefix] = sum(right for _, right in rollouts) / len(rollouts)
            pool.append(rollouts)
            order.append(prefix)
            visits[prefix] = 0
        return mc[prefix]

    estimate(())
    log = []
    for _ in range(searches):
        best = None
        for prefix, rollouts in zip(order, pool, strict=True):
            for i, (tokens, right) in enumerate(rollouts):
                if right or (prefix, i) in searched or not 0 < mc[prefix] < 1:
                    continue
                q = 0.5 ** (1 - mc[prefix]) * 0.9 ** (len(tokens) / 500)
                u = 0.125 * math.sqrt(sum(visits.values())) / (1 + visits[prefix])
                if best is None or q + u > best[0]:
                    best = (q + u, prefix, i, tokens)
        if best is None:
            break
        _, prefix, i, tokens = best
        searched.add((prefix, i))
        visits[prefix] += 1
        low, high = 0, len(tokens)
        while high - low >= max(min_span, 2):
            middle = low + (high - low) // 2
            if estimate((*prefix, *tokens[:middle])) > 0:
                low = middle
            else:
                high = middle
        full = (*prefix, *tokens)
        log.append((full, full[: len(prefix) + low], full[: len(prefix) + high]))
    return mc, log


class Walk:
    """GroundedPRM's and ReST-MCTS*'s search of one tree, each node visited by the book."""

    def __init__(
        self, rule: str, c: float, fade: float,
        expand: Callable[[Path], list[tuple[float, bool]] | float],
        rollout: Callable[[Path], float], pick: Callable[[Path], int] | None,
    ) -> None:  # fmt: skip
        """`expand` gives children, each with its value and whether it ends, or an end's value."""
        self.rule, self.c, self.fade = rule, c, fade
        self.expand, self.rollout, self.pick = expand, rollout, pick
        self.visits: dict[Path, int] = {(): 0}
        self.sums: dict[Path, float] = {(): 0.0}
        self.told: dict[Path, tuple[float, bool]] = {(): (0.0, False)}
        self.width: dict[Path, int] = {}
        self.closed: set[Path] = set()

    def below(self, path: Path) -> list[Path]:
        return [(*path, i) for i in range(self.width.get(path, 0))]

    def score(self, child: Path) -> float:
        log, n = math.log(max(self.visits[child[:-1]], 1)), self.visits[child]
        if n == 0:
            return math.inf if self.rule == "groundedprm" else self.told[child][0] + 1.0
        twice = 1 if self.rule == "groundedprm" else 2
        return self.sums[child] / n + self.c * math.sqrt(twice * log / n)

    def simulate(self) -> bool:
        """One simulation; whether there was one to make."""
        if () in self.closed:
            return False
        path: Path = ()
        while self.below(path):
            path = max((p for p in self.below(path) if p not in self.closed), key=self.score)
        found = self.told[path][0] if self.told[path][1] else self.expand(path)
        if isinstance(found, float):
            self.visit(path, found)
            self.close(path)
            return True
        self.width[path] = len(found)
        for child, told in zip(self.below(path), found, strict=True):
            self.told[child], self.visits[child], self.sums[child] = told, 0, 0.0
        values = [value for value, _ in found]
        best = self.pick(path) if self.pick else values.index(max(values))
        child = (*path, best)
        value, ends = found[best]
        if ends:
            self.visit(child, value)
            self.close(child)
        elif self.rule == "groundedprm":
            self.visit(child, self.rollout(child))
        else:
            self.visit(child, (1 - self.fade) * value + self.fade * self.rollout(child))
        return True

    def visit(self, path: Path, value: float) -> None:
        if self.rule == "groundedprm":
            self.sums[path] += value
            for up in range(len(path) - 1, -1, -1):
                self.sums[path[:up]] += self.fade ** (len(path) - up) * value
                self.visits[path[:up]] += 1
            return
        self.visits[path] += 1
        self.sums[path] = value * self.visits[path]
        for up in range(len(path) - 1, -1, -1):
            own = self.below(path[:up])
            mean = sum(self.sums[p] for p in own) / sum(self.visits[p] for p in own)
            self.visits[path[:up]] += 1
            self.sums[path[:up]] = mean * self.visits[path[:up]]

    def close(self, path: Path) -> None:
        self.closed.add(path)
        if path and all(p in self.closed for p in self.below(path[:-1])):
            self.close(path[:-1])
