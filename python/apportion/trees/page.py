"""The page of trees: what it embeds. Depends on `data` and the report's page.

Columns stay columns, of all trees together, and each text is there once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from apportion import _core
from apportion.arrays import Array
from apportion.errors import InputError
from apportion.report.data import MAX_TEXT, MAX_TEXTS, Texts
from apportion.report.page import render
from apportion.trees.data import TreeColumns

MAX_NODES = 200_000
"""Nodes of one page; a browser holds them well. Trees beyond it are left out, and named."""

SCRIPTS = ("trees.js", "overview.js", "map.js", "outline.js", "node.js", "main.js")
STYLES = ("trees.css",)

PICTURED = ("visits", "value")

Json = Any


def html(trees: TreeColumns, *, title: str, source: str | None) -> str:
    """The page; see `Trees.to_html`."""
    content = gather(trees, title=title, source=source)
    return render(content, "apportion.trees", SCRIPTS, STYLES).decode("utf-8")


def gather(trees: TreeColumns, *, title: str, source: str | None) -> dict[str, Json]:
    """Everything that the page needs."""
    if not len(trees):
        raise InputError("trees: got none, expected at least one")
    fitting = int(np.searchsorted(trees.offsets[1:], MAX_NODES, side="right"))
    shown = trees.select(range(max(1, fitting)))
    starts = np.repeat(shown.offsets[:-1], np.diff(shown.offsets))
    places = np.arange(len(shown.parent)) - starts
    columns = {n: of for n, of in shown.columns.items() if n in PICTURED or tells(of, places)}
    texts = Texts()
    ids = [texts.number(text) for text in shown.texts or []]
    strings, limit = texts.within(MAX_TEXT, MAX_TEXTS)
    return {
        "title": str(title),
        "source": source,
        "version": _core.__version__,
        "left_out": len(trees) - len(shown),
        "names": None if shown.names is None else list(shown.names),
        "offsets": shown.offsets.tolist(),
        "parent": shown.parent.tolist(),
        "columns": {name: numbers(of) for name, of in columns.items()},
        "scales": {name: scale(of) for name, of in columns.items()},
        "texts": ids if shown.texts is not None else None,
        "strings": strings,
        "text_limit": limit,
        "meta": {n: str(v) for n, v in trees.meta.items() if isinstance(v, str | int | float)},
        "timeline": {name: numbers(np.asarray(of)) for name, of in trees.timeline.items()},
    }


def tells(column: Array, places: Array) -> bool:
    """Whether any two nodes differ in a column, other than by their numbers in the tree."""
    found = column.astype(np.float64)
    return len(np.unique(found)) > 1 and not np.array_equal(found, places)  # NaN is one value


def numbers(column: Array) -> list[Json]:
    """Integers as they are, others with six significant digits; NaN is null."""
    if column.dtype.kind in "biu":
        whole: list[Json] = column.astype(np.int64).tolist()
        return whole
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in column.tolist()]


def scale(column: Array) -> list[float]:
    """The numbers of least, no and most colour.

    Around 0 where signs differ, else around the middle of what occurs. The outermost
    hundredth is left out, so that one outlier does not make all else pale.
    """
    found = column[np.isfinite(column)].astype(np.float64)
    if not len(found):
        return [-1.0, 0.0, 1.0]
    low, high = np.quantile(found, [0.01, 0.99])
    if low < 0 < high:
        reach = max(-low, high)
        low, high = -reach, reach
    if low == high:
        low, high = float(found.min()), float(found.max())
    if low == high:
        low, high = low - 1.0, high + 1.0
    return [float(f"{v:.6g}") for v in (low, (low + high) / 2, high)]
