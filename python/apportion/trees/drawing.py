"""Drawings of one tree: SVG, and Graphviz's language. Depends on `data` and the page's scale.

Both show the most visited nodes of a tree that is larger than a reader can take in.
Colour is value, width is visits, and the text of a node appears on hover.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np

from apportion.arrays import Array
from apportion.errors import InputError
from apportion.trees.data import TreeColumns
from apportion.trees.page import scale

LINE = 22  # between leaves
FONT = 11
WITH_TEXT, WITHOUT_TEXT = 220, 84  # width of a level
BEND = 34  # in which an edge reaches its child's line
THINNEST, THICKEST = 1.0, 10.0
POSITIVE, NEGATIVE, ABSENT = (0x1F, 0x6F, 0xC4), (0xD5, 0x5E, 0x00), (0x80, 0x88, 0x90)
MAX_TITLE = 2_000  # characters of a text on hover

_STYLE = (
    ".page{fill:#fff}text{fill:#1b1f24}.faint{fill:#59636e}"
    "@media(prefers-color-scheme:dark)"
    "{.page{fill:#1d2126}text{fill:#e6e9ed}.faint{fill:#9aa5b1}}"
)


@dataclass(frozen=True)
class Drawn:
    """The nodes that are drawn, parents first, numbered as in their tree."""

    nodes: list[int]
    parent: list[int]  # place in `nodes`; -1 at the root
    depth: list[int]
    value: list[float]  # NaN where absent
    weight: list[int]
    texts: list[str | None]
    scale: list[float]
    left_out: int
    counted: bool  # whether weights are visits, not leaves

    @classmethod
    def of(cls, trees: TreeColumns, tree: int, max_nodes: int) -> Drawn:
        """The most visited nodes of a tree."""
        whole = isinstance(max_nodes, int) and not isinstance(max_nodes, bool)
        if not whole or max_nodes < 1:
            raise InputError(f"max_nodes: got {max_nodes!r}, expected an integer of at least 1")
        one = trees.select([tree])
        visits = one.columns.get("visits")
        counted = visits is not None and bool(np.any(visits > 0))
        weight = visits if visits is not None and counted else one.num_leaves
        kept = np.sort(_heaviest(one.parent, weight, max_nodes))
        places = {node: place for place, node in enumerate(kept.tolist())}
        value = one.columns.get("value", np.full(one.num_nodes, np.nan)).astype(np.float64)
        texts = one.texts or [None] * one.num_nodes
        return cls(
            nodes=kept.tolist(),
            parent=[places.get(parent, -1) for parent in one.parent[kept].tolist()],
            depth=one.depth[kept].tolist(),
            value=value[kept].tolist(),
            weight=weight[kept].tolist(),
            texts=[texts[node] for node in kept.tolist()],
            scale=scale(value),
            left_out=one.num_nodes - len(kept),
            counted=counted,
        )

    def width(self, place: int) -> float:
        """Of the edge into a node: by its share of the most."""
        most = max(max(self.weight), 1)
        return THINNEST + (THICKEST - THINNEST) * max(self.weight[place], 0) / most

    def colour(self, place: int) -> tuple[tuple[int, int, int], float]:
        """Hue and strength of a node's value."""
        value = self.value[place]
        if value != value:
            return ABSENT, 0.3
        low, middle, high = self.scale
        reach = high - middle if value > middle else middle - low
        strength = min(1.0, abs(value - middle) / reach) ** 0.7 if reach else 0.0
        return POSITIVE if value > middle else NEGATIVE, 0.15 + 0.85 * strength

    def told(self, place: int) -> str:
        """A node's numbers in words."""
        one, many = ("visit", "visits") if self.counted else ("leaf", "leaves")
        noun = one if self.weight[place] == 1 else many
        value = "no value" if self.value[place] != self.value[place] else f"{self.value[place]:.3g}"
        return f"{value}, {self.weight[place]:,} {noun}, node {self.nodes[place]}"

    def note(self) -> str:
        """What width and colour are, and what is not drawn."""
        noun, least = ("visits", "visited") if self.counted else ("leaves", "branched")
        low, _, high = self.scale
        text = f"Width: {noun}. Colour: value, {low:.3g} orange to {high:.3g} blue."
        return text + (f" {self.left_out:,} less {least} nodes not drawn." if self.left_out else "")


def _heaviest(parent: Array, weight: Array, count: int) -> Array:
    """Rows of the `count` nodes of most weight, whose parents are among them."""
    least = weight.astype(np.float64).tolist()
    above = parent.tolist()
    for node in range(len(least) - 1, 0, -1):  # no child outweighs its parent
        least[above[node]] = max(least[above[node]], least[node])
    order: Array = np.argsort(-np.array(least), kind="stable")[:count]
    return order


def svg(trees: TreeColumns, tree: int, max_nodes: int) -> str:
    """The drawing as SVG; see `Trees.to_svg`."""
    drawn = Drawn.of(trees, tree, max_nodes)
    level = WITH_TEXT if any(drawn.texts) else WITHOUT_TEXT
    heights = _heights(drawn)
    width = max((max(drawn.depth) + 1) * level + LINE, 2 * WITH_TEXT)
    height = max(heights) + 2 * LINE
    parts = [
        *_nodes(drawn, heights, level),
        f'<text class="faint" x="8" y="{height - 8:g}">{drawn.note()}</text>',
    ]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="system-ui, sans-serif" '
        f'font-size="{FONT}">\n<style>{_STYLE}</style>\n'
        '<rect class="page" width="100%" height="100%"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _heights(drawn: Drawn) -> list[float]:
    """Each node's line: leaves one below the other, a parent midway between its children."""
    children: list[list[int]] = [[] for _ in drawn.nodes]
    for place, parent in enumerate(drawn.parent):
        if parent >= 0:
            children[parent].append(place)
    heights = [0.0] * len(drawn.nodes)
    below = float(LINE)
    stack = [0]
    while stack:  # leaves in the order in which the tree shows them
        place = stack.pop()
        if not children[place]:
            heights[place] = below
            below += LINE
        stack.extend(reversed(children[place]))
    for place in range(len(heights) - 1, -1, -1):
        if children[place]:
            heights[place] = (heights[children[place][0]] + heights[children[place][-1]]) / 2
    return heights


def _nodes(drawn: Drawn, heights: list[float], level: int) -> Iterator[str]:
    for place, parent in enumerate(drawn.parent):
        end, y = (drawn.depth[place] + 1) * level, heights[place]
        start = end - level + (BEND if parent < 0 else 0)
        above = y if parent < 0 else heights[parent]
        (red, green, blue), strength = drawn.colour(place)
        colour = f"#{red:02x}{green:02x}{blue:02x}"
        half = start + BEND / 2
        bend = f"C{half:g} {above:g} {half:g} {y:g} {start + BEND} {y:g}" if parent >= 0 else ""
        text = drawn.texts[place]
        title = drawn.told(place) + (f"\n{_cut(text, MAX_TITLE)}" if text else "")
        words = " ".join((text or "").split()) or drawn.told(place).split(",")[0]
        fits = int((level - BEND) / (FONT * 0.56))
        stands = y - drawn.width(place) / 2 - 3  # the words stand on the edge
        yield (
            f"<g><title>{_xml(title)}</title>"
            f'<path d="M{start} {above:g}{bend}H{end}" fill="none" stroke="{colour}" '
            f'stroke-opacity="{strength:.2f}" stroke-width="{drawn.width(place):.1f}"/>'
            f'<text x="{end - level + BEND}" y="{stands:g}">{_xml(_cut(words, fits))}</text></g>'
        )


def dot(trees: TreeColumns, tree: int, max_nodes: int) -> str:
    """The drawing in Graphviz's language; see `Trees.to_dot`."""
    drawn = Drawn.of(trees, tree, max_nodes)
    lines = [
        "digraph tree {",
        '  graph [rankdir=LR, fontname="sans-serif", fontsize=10, fontcolor="#59636e"];',
        '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=10];',
        '  edge [arrowhead=none, color="#8b949e"];',
    ]
    lines.append(f"  label={_quoted(drawn.note())};")
    for place, node in enumerate(drawn.nodes):
        (red, green, blue), strength = drawn.colour(place)
        red, green, blue = (round(255 + (c - 255) * strength * 0.6) for c in (red, green, blue))
        text = drawn.texts[place]
        words = _cut(" ".join((text or "").split()), 60)
        told = drawn.told(place)
        label = f"{words}\n{told}" if words else told
        lines.append(
            f'  n{node} [label={_quoted(label)}, fillcolor="#{red:02x}{green:02x}{blue:02x}", '
            f"tooltip={_quoted(_cut(text or told, MAX_TITLE))}];"
        )
    for place, parent in enumerate(drawn.parent):
        if parent >= 0:
            edge = f"n{drawn.nodes[parent]} -> n{drawn.nodes[place]}"
            lines.append(f"  {edge} [penwidth={drawn.width(place):.1f}];")
    return "\n".join([*lines, "}", ""])


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(1, length - 1)] + "…"


_NOT_XML = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _xml(text: str) -> str:
    """Text for XML; characters that it cannot hold become U+FFFD."""
    return escape(_NOT_XML.sub("\ufffd", text))


def _quoted(text: str) -> str:
    """A string of Graphviz's, in which nothing is an escape but the end of a line."""
    text = _NOT_XML.sub("\ufffd", text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "\\n".join(text.splitlines()) + '"'
