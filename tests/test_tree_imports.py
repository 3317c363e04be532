"""Other projects' trees, written as their code writes them from the cases' numbers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap
from some_trees import assert_same

GOLDEN = Path(__file__).parent / "golden"


def prorag_record(case: dict[str, Any]) -> dict[str, Any]:
    def node(golden: dict[str, Any], action: str) -> dict[str, Any]:
        below = [node(child, f"{action}{i}") for i, child in enumerate(golden["ch"])]
        ended = "</answer>" if golden["terminal"] else ""
        numbers = {name: golden[name] for name in ("q", "n", "prior", "depth")}
        return {"action": f"<step>{action}{ended}", **numbers, "children": below}

    tree = node(case["outputs"]["tree"], "r")
    return {"id": "p-1", "question": "Who?", "mcts_tree": tree, "answer": "x"}


def flat(golden: dict[str, Any]) -> list[dict[str, Any]]:
    return [golden, *(row for child in golden["ch"] for row in flat(child))]


@pytest.mark.parametrize("name", ["case_00", "case_01"])
def test_prorag_trees(tmp_path: Path, name: str) -> None:
    case = json.loads((GOLDEN / "tree_prorag_mcts" / f"{name}.json").read_text())
    path = tmp_path / "trees.jsonl"
    line = json.dumps(prorag_record(case))
    path.write_text(f"{line}\n\n{line}\n")
    trees = ap.read_trees(path)
    rows = flat(case["outputs"]["tree"]) * 2
    assert len(trees) == 2 and trees.names == ["p-1", "p-1"]
    assert trees.meta == {"format": "prorag", "answers": ["x", "x"]}
    np.testing.assert_array_equal(trees.columns["visits"], [row["n"] for row in rows])
    means = [row["q"] / row["n"] if row["n"] else np.nan for row in rows]
    np.testing.assert_array_equal(trees.columns["value"], means)
    np.testing.assert_array_equal(trees.depth, [row["depth"] for row in rows])
    np.testing.assert_array_equal(trees.columns["terminal"], [row["terminal"] for row in rows])
    assert trees.texts is not None and trees.texts[0] == "Who?"


@pytest.mark.parametrize("name", ["case_00", "case_01"])
def test_alphamath_trees(tmp_path: Path, name: str) -> None:
    case = json.loads((GOLDEN / "tree_alphamath" / f"{name}.json").read_text())
    parents, out = case["inputs"]["parents"], case["outputs"]
    tags: list[str] = []
    for node, parent in enumerate(parents):
        before = sum(p == parent for p in parents[:node])
        tags.append(f"{tags[parent]}.{before}" if parent >= 0 else "0")
    react = {
        tag: {
            "text": f"step {tag}",
            "extra_info": "",
            "final_answer": "",
            "value": -100 if out["first_value"][k] is None else out["first_value"][k],
            "q_value": out["q"][k],
            "prior": 1.0,
            "visit_count": out["visits"][k],
        }
        for k, tag in enumerate(tags)
    }
    path = tmp_path / "trees.jsonl"
    path.write_text(json.dumps({"question": "Q", "answer": "3", "react": react}))
    trees = ap.read_trees(path)
    assert trees.texts is not None
    order = [0, *(tags.index(text.removeprefix("step ")) for text in trees.texts[1:])]
    visits = np.array(out["visits"])
    np.testing.assert_array_equal(trees.columns["visits"], visits[order])
    q = np.where(visits > 0, np.array(out["q"], dtype=float), np.nan)
    np.testing.assert_array_equal(trees.columns["value"], q[order])
    for row, parent in enumerate(trees.parent.tolist()):
        assert parent < 0 or order[parent] == parents[order[row]]
    # As `solve` returns it: nodes under the question.
    path.write_text(json.dumps({"question": "Q", "answer": "3", "react": {"Q": react}}))
    assert_same(trees, ap.read_trees(path, "alphamath"))


def test_openr_trees(tmp_path: Path) -> None:
    case = json.loads(Path(GOLDEN / "omegaprm_openr" / "case_00.json").read_text())
    states = case["outputs"]["states"]
    nodes = [{"text": f"s{k}", "mc_value": s["MC"], "children": []} for k, s in enumerate(states)]
    for node, state in zip(nodes, states, strict=True):
        if state["parent"] >= 0:
            nodes[state["parent"]]["children"].append(node)
    path = tmp_path / "question_0.json"
    for record in ({"question": "s0", "final_answer": "7", "reasoning_steps": nodes[0]}, nodes[0]):
        path.write_text(json.dumps(record, indent=4))
        trees = ap.read_trees(path)
        assert trees.texts is not None
        order = [int(text[1:]) for text in trees.texts]
        assert sorted(order) == list(range(len(states)))
        expected = [np.nan if states[k]["MC"] is None else states[k]["MC"] for k in order]
        np.testing.assert_array_equal(trees.columns["value"], expected)
        for row, parent in enumerate(trees.parent.tolist()):
            assert parent < 0 or order[parent] == states[order[row]]["parent"]


def test_propa_trees(tmp_path: Path) -> None:
    def node(index: int, parent: int | None, visits: int, value: float) -> dict[str, Any]:
        return {
            "index": index, "state": f"s{index}", "prompt": None, "visits": visits,
            "value": value, "reward": 0, "is_terminal": index == 2, "parent": parent,
            "children": [], "reward_given_by_model": 0,
        }  # fmt: skip

    tree = [node(0, None, 4, 3), node(1, 0, 2, 1), node(2, 1, 0, 0), node(3, 0, 1, 1)]
    entry = {"question": "Q", "final_answer": "B", "image_path": "i.png", "tree_file": tree}
    path = tmp_path / "tree_data_0.json"
    path.write_text(json.dumps([entry, entry], indent=2))
    trees = ap.read_trees(path)
    assert trees.parent.tolist() == [-1, 0, 1, 0] * 2
    np.testing.assert_array_equal(trees.columns["value"], [0.75, 0.5, np.nan, 1.0] * 2)
    assert trees.columns["terminal"].tolist() == [False, False, True, False] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[]", "is empty"),
        ("{", "not JSON"),
        ("[1]", r"entry 0: got int, expected an object"),
        ('{"a": 1}', r"got 'a', expected the fields of one of alphamath"),
        ('{"question": "q", "react": {"0": {}, "0.x": {}}}', "react: expected tags"),
        ('{"question": "q", "react": {"0": {}, "0.1.0": {"text": "t"}}}', r"parent '0.1' is not"),
        ('{"question": "q", "react": {"0": {"visit_count": -1}}}', "visit_count: got -1"),
        ('{"question": "q", "mcts_tree": {"n": "1"}}', r"mcts_tree: n: got '1', expected an int"),
        ('{"question": "q", "mcts_tree": [1]}', "mcts_tree: got list"),
        ('{"text": "q", "mc_value": true, "children": []}', "mc_value: got True, expected a num"),
        ('{"text": "q", "mc_value": 0, "children": [3]}', r"children\[0\]: got int"),
        ('{"question": "q", "tree_file": [{"index": 1}]}', r"index: got 1, expected 0"),
        ('{"text": "q", "mc_value": 0}', "children: got nothing, expected a list"),
        ('{"format": "apportion-trees", "version": 9, "dtypes": {}, "trees": []}', "version 9"),
    ],
)
def test_wrong_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "trees.json"
    path.write_text(content)
    with pytest.raises(ap.FileFormatError, match=message) as caught:
        ap.read_trees(path)
    assert "trees.json" in str(caught.value)


def test_deep_nesting_is_refused_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "deep.json.gz"
    path.write_bytes(gzip.compress(b'{"text":"","mc_value":0,"children":[' * 200_000))
    with pytest.raises(ap.FileFormatError, match=r"nested too deeply|not JSON"):
        ap.read_trees(path)
