"""Trees that other projects write, as `Trees`. Depends on `trees` alone.

Each format is a function from one record of a file to one tree: a list of nodes,
parents first, and the question. What is a sum there is a mean here; what was never
visited or estimated is NaN. Files of AlphaMath and ProRAG are JSON lines, those of
OpenR one JSON object a question, those of PROPA a JSON list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apportion.arrays import Array
from apportion.errors import ApportionError, FileFormatError
from apportion.trees.trees import Trees

Json = Any
NaN = math.nan


@dataclass
class Tree:
    """One tree as it was read."""

    name: str
    answer: Json
    parent: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    rows: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, parent: int, text: str, **numbers: float) -> int:
        """Appends a node; its number."""
        self.parent.append(parent)
        self.texts.append(text)
        self.rows.append(numbers)
        return len(self.parent) - 1


class Fields:
    """Fields of an object of a file, each with a message that says where it is."""

    def __init__(self, place: str, value: Json) -> None:
        """`value` must be an object."""
        if not isinstance(value, dict):
            raise FileFormatError(f"{place}: got {type(value).__name__}, expected an object")
        self.place, self.value = place, value

    def _of(self, name: str, kinds: tuple[type, ...], expected: str) -> Json:
        found = self.value.get(name)
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            got = "nothing" if found is None else repr(found)[:40]
            raise FileFormatError(f"{self.place}: {name}: got {got}, expected {expected}")
        return found

    def text(self, name: str) -> str:
        """A text."""
        return str(self._of(name, (str,), "a text"))

    def list(self, name: str) -> list[Json]:
        """A list."""
        found: list[Json] = self._of(name, (list,), "a list")
        return found

    def number(self, name: str) -> float:
        """A number."""
        return float(self._of(name, (int, float), "a number"))

    def count(self, name: str) -> int:
        """An integer of at least 0."""
        found = self._of(name, (int,), "an integer of at least 0")
        if found < 0:
            raise FileFormatError(f"{self.place}: {name}: got {found}, expected at least 0")
        return int(found)

    def flag(self, name: str) -> bool:
        """True or false."""
        return bool(self._of(name, (bool,), "true or false"))


def _mean(total: float, visits: int) -> float:
    return total / visits if visits else NaN


NEVER = -100  # AlphaMath's value of a node that was not evaluated


def _alphamath(place: str, record: Fields) -> Tree:
    """`react`: nodes by tag, where `0.2.1` is child 1 of child 2 of the root."""
    question = record.text("question")
    nodes = Fields(f"{place}: react", record.value.get("react")).value
    if question in nodes and "0" not in nodes:
        nodes = Fields(f"{place}: react[question]", nodes[question]).value  # as `solve` returns
    try:
        tags = sorted(nodes, key=lambda tag: [int(part) for part in tag.split(".")])
    except ValueError as error:
        message = f"{place}: react: expected tags of numbers and dots: {error}"
        raise FileFormatError(message) from error
    tree = Tree(question, record.value.get("answer"))
    places: dict[str, int] = {}
    for tag in tags:
        node = Fields(f"{place}: react[{tag!r}]", nodes[tag])
        above = tag.rpartition(".")[0]
        if above and above not in places:
            raise FileFormatError(f"{node.place}: its parent {above!r} is not there")
        visits = node.count("visit_count") if "visit_count" in node.value else 0
        first = node.number("value") if "value" in node.value else NEVER
        places[tag] = tree.add(
            places[above] if above else -1,
            node.text("text") if above else question,
            visits=visits,
            value=node.number("q_value") if visits else NaN,
            raw_value=NaN if first == NEVER else first,
            prior=node.number("prior") if "prior" in node.value else NaN,
            terminal=bool(node.value.get("final_answer")),
        )
    return tree


def _nested(tree: Tree, root: Fields, add: Callable[[Fields, int], int]) -> Tree:
    """Adds the nodes of a nested object, parents first, children in order."""
    stack = [(root, -1)]
    while stack:
        node, parent = stack.pop()
        number = add(node, parent)
        below = [
            (Fields(f"{node.place}.children[{i}]", child), number)
            for i, child in enumerate(node.list("children"))
        ]
        stack.extend(reversed(below))
    return tree


def _openr(place: str, record: Fields) -> Tree:
    """OmegaPRM's states, nested: `text`, `mc_value`, `children`."""
    bare = "reasoning_steps" not in record.value
    root = record if bare else Fields(f"{place}: reasoning_steps", record.value["reasoning_steps"])
    tree = Tree(root.text("text"), record.value.get("final_answer"))

    def add(node: Fields, parent: int) -> int:
        absent = node.value.get("mc_value") is None
        return tree.add(parent, node.text("text"), value=NaN if absent else node.number("mc_value"))

    return _nested(tree, root, add)


def _prorag(place: str, record: Fields) -> Tree:
    """`mcts_tree`, nested: `action`, `q` (a sum), `n`, `prior`, `children`."""
    question = record.text("question")
    tree = Tree(str(record.value.get("id", question)), record.value.get("answer"))

    def add(node: Fields, parent: int) -> int:
        visits, text = node.count("n"), node.text("action")
        return tree.add(
            parent,
            text if parent >= 0 else question,
            visits=visits,
            value=_mean(node.number("q"), visits),
            prior=node.number("prior"),
            terminal=text.strip().endswith(("</answer>", "<|im_end|>")),
        )

    return _nested(tree, Fields(f"{place}: mcts_tree", record.value.get("mcts_tree")), add)


def _propa(place: str, record: Fields) -> Tree:
    """`tree_file`, a list: `state`, `visits`, `value` (a sum), `reward`, `parent`."""
    tree = Tree(record.text("question"), record.value.get("final_answer"))
    for number, entry in enumerate(record.list("tree_file")):
        node = Fields(f"{place}: tree_file[{number}]", entry)
        if node.count("index") != number:
            got = node.value["index"]
            raise FileFormatError(f"{node.place}: index: got {got}, expected {number}")
        root = node.value.get("parent") is None
        visits = node.count("visits")
        tree.add(
            -1 if root else node.count("parent"),
            node.text("state"),
            visits=visits,
            value=_mean(node.number("value"), visits),
            reward=node.number("reward"),
            terminal=node.flag("is_terminal"),
        )
    return tree


FORMATS: dict[str, Callable[[str, Fields], Tree]] = {
    "alphamath": _alphamath,
    "openr": _openr,
    "prorag": _prorag,
    "propa": _propa,
}
"""Each format's reader."""

TELLING = {
    "react": "alphamath",
    "reasoning_steps": "openr",
    "mc_value": "openr",
    "mcts_tree": "prorag",
    "tree_file": "propa",
}
"""Fields by which formats are told apart."""


def import_trees(records: Iterator[tuple[str, Json]], format: str) -> Trees:
    """The trees of a file of one format; `"auto"` goes by each record's fields."""
    trees = []
    for place, value in records:
        record = Fields(place, value)
        name = _format_of(record) if format == "auto" else format
        tree = FORMATS[name](place, record)
        try:
            Trees(offsets=np.array([0, len(tree.parent)]), parent=np.array(tree.parent))
        except ApportionError as error:
            raise FileFormatError(f"{place}: {error}") from error
        trees.append(tree)
        format = name
    return _together(trees, format)


def _format_of(record: Fields) -> str:
    for field_name, name in TELLING.items():
        if field_name in record.value:
            return name
    got = ", ".join(map(repr, list(record.value)[:8])) or "no fields"
    message = f"{record.place}: got {got}, expected the fields of one of {', '.join(FORMATS)}"
    raise FileFormatError(message)


TYPES: dict[str, type] = {"visits": np.int64, "terminal": np.bool_}


def _together(trees: list[Tree], format: str) -> Trees:
    rows = [row for tree in trees for row in tree.rows]
    columns: dict[str, Array] = {
        name: np.array([row[name] for row in rows], dtype=TYPES.get(name, np.float64))
        for name in rows[0]
    }
    return Trees(
        offsets=np.cumsum([0, *(len(tree.parent) for tree in trees)]),
        parent=np.array([parent for tree in trees for parent in tree.parent]),
        columns=columns,
        texts=[text for tree in trees for text in tree.texts],
        names=[tree.name for tree in trees],
        meta={"format": format, "answers": [tree.answer for tree in trees]},
    )
