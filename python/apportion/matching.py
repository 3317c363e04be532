"""Likeness of texts and of tool calls, and matching by it. Depends on the core.

What `matchtir` and `gigpo` are made of, for estimators of your own.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from apportion import _core
from apportion.arrays import Array, floats
from apportion.errors import DtypeError, InputError, OptionError


def _text(name: str, value: object) -> str:
    """A string that the core can hold: halves of surrogate pairs become `?`."""
    if not isinstance(value, str):
        raise DtypeError(f"{name}: got {value!r:.80}, expected a string")
    return value.encode("utf-8", "replace").decode()


def text_similarity(a: str, b: str, *, how: str = "indel") -> float:
    """Likeness of two strings, from 0 (nothing shared) to 1 (equal).

    `"indel"`: `2 LCS / (|a| + |b|)` over code points, with the longest common
    subsequence; symmetric. `"difflib"`: the ratio of Python's
    `difflib.SequenceMatcher(None, a, b)`, with its heuristic that drops frequent
    characters where `b` has 200 or more; not symmetric. Two empty strings: 1.
    """
    if how not in ("indel", "difflib"):
        raise OptionError(f"how: got {how!r}, expected 'indel' or 'difflib'")
    return _core.text_similarity(_text("a", a), _text("b", b), how)


def tool_similarity(calls: Any, gold: Any) -> Array:
    """Likeness of each predicted tool call with each gold call, `(calls, gold)` float64.

    0 where the names differ but for case, else `(1 + J + V) / (2 + |gold arguments|)`
    with `J` the Jaccard index of argument names and `V` the number of gold arguments
    with an equal value (MatchTIR). Both sides are lists of dictionaries with `name`
    and `arguments` or `parameters`, or JSON text of such a list.
    """
    texts = [_json("calls", calls), _json("gold", gold)]
    values, rows, columns = _core.tool_similarity(*texts)
    return values.reshape(rows, columns)


def _json(name: str, side: Any) -> str:
    if isinstance(side, str):
        return _text(name, side)
    try:
        return json.dumps(side)
    except (RecursionError, TypeError, ValueError) as error:
        raise DtypeError(f"{name}: got {error}, expected what JSON can hold") from error


def shell_signature(command: str) -> list[str]:
    """What a shell command is about, as tokens: a turn's entry in the column `signatures`.

    From the syntax tree (tree-sitter-bash): control words and operators, `cmd:` names,
    `flag:` flags, `word:` the verb after the name, `path:` last parts of paths. Quoted
    text, numbers and values are left out. Invalid parts give `error`. Which words are
    salient is our choice; the authors of A3 publish no parser with their cases.

    >>> shell_signature("git commit -m 'a message' && make test")
    ['cmd:git', 'word:commit', 'flag:-m', '&&', 'cmd:make', 'word:test']
    """
    return _core.shell_signature(_text("command", command))


def single_linkage(distance: Any, clusters: int) -> Array:
    """Labels `(N,)` of single linkage of `distance` `(N, N)` down to `clusters` (at least 1).

    Pairs above the diagonal are merged by ascending distance, ties in row-major order,
    until so many clusters are left. Labels are numbered by first appearance.
    """
    array = floats("distance", distance).astype(np.float64, copy=False)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise InputError(f"distance: got shape {array.shape}, expected (items, items)")
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 1:
        raise OptionError(f"clusters: got {clusters!r}, expected an integer of at least 1")
    flat = np.ascontiguousarray(array).reshape(-1)
    return _core.single_linkage(flat, len(array), clusters)


def match(scores: Any, *, how: str = "optimal", reg: float = 0.1) -> Array:
    """Match rows with columns by their scores `(P, G)`.

    `"greedy"`: best pair first, ties in row-major order, only scores above 0;
    `"optimal"`: the one-to-one assignment of the highest total. Both give `(P,)`
    int64 columns, -1 for none. `"sinkhorn"`: the entropic transport plan `(P, G)` with
    marginals `1/P` and `1/G` and regularisation `reg` (Cuturi 2013).
    """
    array = floats("scores", scores).astype(np.float64, copy=False)
    if array.ndim != 2:
        raise InputError(f"scores: got shape {array.shape}, expected two dimensions")
    rows, columns = array.shape
    flat = np.ascontiguousarray(array).reshape(-1)
    if how == "sinkhorn":
        if isinstance(reg, str) or not 0 < reg < np.inf:
            raise OptionError(f"reg: got {reg!r}, expected a number above 0")
        return _core.transport(flat, rows, columns, float(reg)).reshape(rows, columns)
    if how not in ("greedy", "optimal"):
        raise OptionError(f"how: got {how!r}, expected 'greedy', 'optimal' or 'sinkhorn'")
    return _core.assign(flat, rows, columns, how == "optimal")
