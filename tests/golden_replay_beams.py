"""The table from folders of cases of beams to calls of the public API.

A level is asked at once; the case's log says what each beam is followed by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apportion as ap
from apportion.search.data import KINDS

Case = dict[str, Any]
Outputs = dict[str, Any]


class Texts:
    """Texts of a search's nodes, and the answers that give them."""

    def __init__(self, search: ap.Search) -> None:
        self.search = search
        self.text = {0: ""}

    def expand(
        self, leaves: ap.Leaves, texts: list[list[str]], values: Any, ends: Any = None
    ) -> None:
        """Tells each leaf's children: their own texts, scores, and which of them end."""
        ends = [[False] * len(row) for row in texts] if ends is None else ends
        tokens = [[[ord(letter) for letter in text] for text in row] for row in texts]
        self.search.expand(
            leaves,
            values=[0.0] * len(texts),
            tokens=tokens,
            child_values=values,
            child_terminal=ends,
        )
        nodes = self.search.nodes()
        for node, row in zip(leaves.node, texts, strict=True):
            for i, text in enumerate(row):
                self.text[int(nodes.first_child[node] + i)] = self.text[int(node)] + text

    def scores(self, node: int) -> list[float]:
        """Scores of the steps to a node."""
        nodes, path = self.search.nodes(), []
        while nodes.parent[node] >= 0:
            path.append(float(nodes.raw_value[node]))
            node = int(nodes.parent[node])
        return path[::-1]


def rounds(case: Case) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    log = case["inputs"]["log"]
    for asked, scored in zip(log[::2], log[1::2], strict=True):
        yield asked["generate"], scored


def worth(scores: list[float], how: str) -> float:
    if how == "prod":
        product = 1.0
        for score in scores:
            product *= score
        return product
    return {"last": scores[-1], "min": min(scores)}[how]


def beam_or_dvts(case: Case) -> Outputs:
    options = case["meta"]["hyperparameters"]
    assert options["lookahead"] == 0
    dvts = "_dvts" in case["meta"]["file_function"]
    own = {} if dvts else {n: options[n] for n in ("filter_duplicates", "sort_completed")}
    search = ap.Search(
        1,
        10**6,
        rule="dvts" if dvts else "beam",
        n=options["n"],
        width=options["beam_width"],
        aggregate=options["agg_strategy"],
        rounds=options["num_iterations"],
        **own,
    )
    texts = Texts(search)
    for asked, scored in rounds(case):
        leaves = search.select(64)
        prefixes, count = asked["prefixes"], len(leaves)
        new: list[list[str]] = []
        values: list[list[float]] = []
        ends: list[list[bool]] = []
        for i, node in enumerate(leaves.node):
            # Beams take turns on the nodes of a level; a root is all beams' at first.
            rows = list(range(i, len(prefixes), count))
            assert all(prefixes[row] == texts.text[int(node)] for row in rows)
            new.append([text for row in rows for text in asked["next"][row]])
            values.append([float(s[-1]) for row in rows for s in scored["scores"][row]])
            ends.append([stop != "step" for row in rows for stop in asked["stop"][row]])
            assert leaves.want[i] == len(new[-1])
        texts.expand(leaves, new, values, ends)
    assert not search.select(64)
    finals = [int(node) for node in search.finals(0)]
    width, how = options["beam_width"], options["agg_strategy"]
    terminal = search.nodes().terminal
    out = []
    for i, node in enumerate(finals):
        block = finals[i // width * width : (i // width + 1) * width]
        best = max(block, key=lambda n: worth(texts.scores(n), how))
        pruned = dvts and bool(terminal[best])
        out.append({"text": texts.text[node], "scores": texts.scores(node), "pruned": pruned})
    return {"final": lambda want: want == out}


def early_rejection(case: Case) -> Outputs:
    options = case["meta"]["hyperparameters"]
    search = ap.Search(
        1,
        10**6,
        rule="early_rejection",
        n=options["num_beams"],
        width=options["beam_width"],
        rounds=options["max_steps"],
        partial_tokens=options["tau_tokens"],
        completion_tokens=options["completion_tokens"],
        unscored=options["unscored_default"],
    )
    texts = Texts(search)
    candidates = iter(case["inputs"]["scored_candidates_in_order"])
    partial = KINDS.index("partial")
    while leaves := search.select(64):
        if leaves.kind[0] != partial:
            done = [[f"c{i}|"] for i in range(len(leaves))]
            texts.expand(leaves, done, [[0.0]] * len(leaves))
            continue
        begun = [[next(candidates) for _ in range(w)] for w in leaves.want]
        own: list[list[str]] = []
        for node, row in zip(leaves.node, begun, strict=True):
            before = texts.text[int(node)]
            assert all(one["text"].startswith(before) for one in row)
            own.append([one["text"][len(before) :] for one in row])
        texts.expand(leaves, own, [[one["score"] for one in row] for row in begun])
    assert next(candidates, None) is None
    nodes = search.nodes()
    out = [(texts.text[int(n)], float(nodes.raw_value[n])) for n in search.finals(0)]

    def same(want: list[dict[str, Any]]) -> bool:
        texts_agree = [one["text"] for one in want] == [text for text, _ in out]
        # The reference's scores are float32.
        return texts_agree and all(
            abs(one["score"] - score) < 1e-6 for one, (_, score) in zip(want, out, strict=True)
        )

    return {"final_beams": same}


BEAM_REPLAY: dict[str, Callable[[Case], Outputs]] = {
    "prm_beam_dvts": beam_or_dvts,
    "early_rejection": early_rejection,
}
