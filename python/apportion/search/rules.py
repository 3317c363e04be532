"""What rules of search there are, their scores, and the labels that methods make of trees.

Depends on `arrays`, `errors`, `methods` and the core.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from apportion import _core
from apportion.arrays import Array, index, integers, vector
from apportion.errors import InputError, OptionError
from apportion.methods import Option
from apportion.search.answers import positive

MAX_CHILDREN = 2**16 - 1
"""Children that a node can have."""


@dataclass(frozen=True)
class RuleCard:
    """Everything there is to know of a rule before searching with it.

    `family` is what kind of search it makes: `"descent"` (down from the root, by value and
    visits), `"pool"` (of rollouts that are searched for their first error), `"beam"`
    (levels of partial answers) or `"branching"` (trees of rollouts to train on).
    """

    name: str
    title: str
    doc: str
    family: str
    paper: str
    certainty: str
    options: tuple[Option, ...]


@functools.cache
def search_rules() -> Mapping[str, RuleCard]:
    """Every rule of search by name, in the order of the core's list."""
    cards = {}
    for raw in _core.search_rules():
        options = tuple(Option(**option) for option in raw["options"])
        cards[raw["name"]] = RuleCard(**{**raw, "options": options})
    return MappingProxyType(cards)


def rule_scores(
    rule: str,
    *,
    visits: Any,
    value_sums: Any,
    priors: Any = None,
    child_values: Any = None,
    parent_visits: int | None = None,
    parent_value_sum: float | None = None,
    **options: Any,
) -> Array:
    """`(A,)` scores by which a rule compares children with these statistics.

    Args:
        rule: a rule that compares children by one number each.
        visits: `(A,)` visits.
        value_sums: `(A,)` sums of the returns of those visits.
        priors: `(A,)` priors; default equal ones.
        child_values: `(A,)` values given to children before any visit; default 0.
        parent_visits: default the sum of the children's.
        parent_value_sum: default the sum of the children's.
        **options: options of the rule.

    Raises:
        InputError: lengths that differ, visits below 0, or a rule without such scores.
        OptionError: an unknown rule or option, or one out of its range.
    """
    counts, sums = integers("visits", visits), vector("value_sums", value_sums)
    size = len(sums)
    if size > MAX_CHILDREN:
        raise InputError(f"value_sums: got {size} children, expected at most {MAX_CHILDREN}")
    even = np.full(size, 1 / max(size, 1))
    values = np.zeros(size) if child_values is None else vector("child_values", child_values)
    columns = {
        "visits": counts,
        "priors": even if priors is None else vector("priors", priors),
        "child_values": values,
    }
    for name, column in columns.items():
        if column.shape != (size,):
            raise InputError(f"{name}: got shape {column.shape}, expected {(size,)}")
    _in_range("visits", counts, 0, 2**32 - 1, "integers from 0 to 2**32 - 1")
    _in_range("priors", columns["priors"], 0, 3e38, "finite numbers of at least 0")
    _finite("value_sums", sums)
    _finite("child_values", values)
    total = int(counts.sum()) if parent_visits is None else parent_visits
    total = index("parent_visits", total, 2**32)
    worth = float(sums.sum()) if parent_value_sum is None else float(parent_value_sum)
    args = (counts, sums, columns["priors"], values)
    scores = _core.rule_scores(rule, options, (total, worth), *args)
    if len(scores) != size:
        raise InputError(f"rule: got {rule!r}, expected one that gives every child a score")
    return scores


def pool_scores(
    mc: Any,
    lengths: Any,
    visits: Any,
    total_visits: Any,
    *,
    alpha: float = 0.5,
    beta: float = 0.9,
    length_scale: float = 500.0,
    c_puct: float = 0.125,
) -> tuple[Array, Array]:
    """OmegaPRM's `Q(s, r)` and `U(s)` of rollouts in a pool; their sum is the score.

    `Q = alpha**(1 - mc) * beta**(lengths / length_scale)`,
    `U = c_puct * sqrt(total_visits) / (1 + visits)` (Luo et al. 2024), all `(n,)`.

    Raises:
        InputError: lengths that differ, or numbers below 0.
    """
    given = {"mc": mc, "lengths": lengths, "visits": visits, "total_visits": total_visits}
    rows = {name: vector(name, column) for name, column in given.items()}
    for name, row in rows.items():
        if len(row) != len(rows["mc"]):
            raise InputError(f"{name}: got length {len(row)}, expected {len(rows['mc'])}")
        _in_range(name, row, 0, 1 if name == "mc" else np.inf, "numbers of at least 0")
    for option, value, fits, expected in (
        ("alpha", alpha, 0 <= alpha <= 1, "a number from 0 to 1"),
        ("beta", beta, 0 <= beta <= 1, "a number from 0 to 1"),
        ("length_scale", length_scale, 0 < length_scale < np.inf, "a number above 0"),
        ("c_puct", c_puct, 0 <= c_puct < np.inf, "a number of at least 0"),
    ):
        if not fits:
            raise OptionError(f"pool_scores: option {option}: got {value!r}, expected {expected}")
    columns = (rows["mc"], rows["lengths"], rows["visits"], rows["total_visits"])
    return _core.pool_scores(*columns, alpha, beta, length_scale, c_puct)


def sibling_rewards(
    value_sums: Any, visits: Any, *, boost: float = 10.0, min_spread: float = 0.1
) -> tuple[Array, bool]:
    """PROPA's rewards of one node's children, and whether their group is to be dropped.

    `ln(1 + boost * q) / ln(1 + boost)`, `q = value_sums / visits`, 0 without visits. A
    group is dropped when its rewards lie within `min_spread`: all wrong and all right
    ones too. (PROPA `create_GRPO_*:log_boost`.)

    Raises:
        InputError: lengths that differ, or a `q` outside 0..1.
        OptionError: a `boost` that is not above 0.
    """
    sums, counts = vector("value_sums", value_sums), integers("visits", visits)
    return _core.sibling_rewards(sums, counts, float(boost), float(min_spread))


def rollout_value(step_scores: Any, final: float, *, overwrite_last: bool = True) -> float:
    """GroundedPRM's value of a rollout whose steps were verified, `-1..1` each.

    `sum_i s_i (m - i) / m**2 + final / m` over the first `m` steps, `final` alone without
    any. As in the released code the final verdict takes the place of the last step's own
    score, so `m` is one less than the number of steps; `overwrite_last=False` counts all.

    Raises:
        InputError: a score that is not finite.
    """
    scores = vector("step_scores", step_scores)
    _finite("step_scores", scores)
    return _core.rollout_value(scores, float(final), overwrite_last)


def reward_labels(parents: Any, correct: Any) -> tuple[Array, Array, Array]:
    """ReST-MCTS*'s labels of a tree's nodes: `hard`, `steps` and `values`, `(n,)` each.

    `hard`: whether a right answer lies at or below the node. `steps`: steps to the nearest
    right answer, the one into the node among them; of a node without any below, as many as
    its parent has. `values`: `max(0, v_parent + (1 - v_parent) * r / steps)` with `r` 1
    where `hard` and -1 elsewhere, 0 at the root; all 0 in a tree without right answers.

    Args:
        parents: `(n,)` each node's parent, -1 for node 0, the root; parents come first.
        correct: nodes that are right answers.

    Raises:
        InputError: a parent that does not come first, or a right answer that is no node.
    """
    return _core.reward_labels(integers("parents", parents), integers("correct", correct))


def lookahead_value(values: Any, *, alpha: float = 0.5, min_gain: float = 0.05) -> float:
    """ReARTeR's value of a step by its own and those of the steps that follow it.

    `(m + 1,)` values: logits of a process reward model, of the step and of the steps after
    it. Of those, none counts behind the first step that gains less than `min_gain` over the
    one before; backwards, `v[t] += alpha * (v[t + 1] - v[t])`. The result is `v[0]`, a
    logit. (ReARTeR `active_pipeline.py:update_values`.)

    Raises:
        InputError: no values.
    """
    own = vector("values", values)
    if not len(own):
        raise InputError("values: got none, expected at least the step's own")
    small = np.flatnonzero(np.diff(own) < min_gain)
    end = int(small[0]) + 1 if len(small) else len(own) - 1
    value = float(own[end])
    for before in own[:end][::-1]:
        value = float(before) + alpha * (value - float(before))
    return value


def _in_range(name: str, values: Array, low: float, high: float, expected: str) -> None:
    bad = np.flatnonzero(~((values >= low) & (values <= high)))
    if len(bad):
        raise InputError(f"{name}[{bad[0]}]: got {values[bad[0]]!r}, expected {expected}")


def _finite(name: str, values: Array) -> None:
    largest = np.finfo(np.float64).max
    _in_range(name, values, -largest, largest, "finite numbers")


def considered_visits(considered: int, simulations: int) -> Array:
    """`(simulations,)` visits that sequential halving wants of the child chosen next.

    At simulation `i` a root under `gumbel` chooses among children with so many visits,
    `considered` of them at first (Danihelka et al. 2022, mctx `seq_halving.py`).
    """
    size = index("simulations", positive("simulations", simulations), 2**32 - 1)
    return _core.considered_visits(positive("considered", considered), size)
