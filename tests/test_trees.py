"""Trees in files and pictures: what comes back, what is refused, and that no text does harm."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.trees import Ragged, TreeRollouts

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = [
    "</script><img src=x onerror=document.title='broken'>",
    "<!--<script>",
    "]]></title><svg onload=alert(1)>",
    'quote " back \\ slash \\N \\l {<f0>|}',
    "controls \x00 \x07 \x1b[31m \x85 \u2028 \ufeff \uffff",
    "right to left \u202e abc \u202c \u05d0\u05d1",
    "&lt;b&gt; &amp; \\u003c",
]


def searched(roots: int = 2, simulations: int = 12, children: int = 3, seed: int = 0) -> ap.Search:
    rng = np.random.default_rng(seed)
    search = ap.Search(roots, 20_000, num_simulations=simulations, seed=seed)
    while leaves := search.select(16):
        count = len(leaves)
        priors = rng.dirichlet(np.ones(children), count)
        search.expand(leaves, values=rng.normal(size=count), priors=priors)
    return search


def with_tokens() -> ap.Search:
    rng = np.random.default_rng(1)

    def rows(count: int) -> list[list[int]]:
        return [rng.integers(9, size=rng.integers(4)).tolist() for _ in range(count)]

    search = ap.Search(3, 20_000, num_simulations=10)
    while leaves := search.select(4):
        count = len(leaves)
        search.expand(
            leaves,
            children=2,
            tokens=[rows(2) for _ in range(count)],
            rollouts=rng.random((count, 2)),
            rollout_tokens=[rows(2) for _ in range(count)],
        )
    return search


def with_log_probs() -> ap.Search:
    search = ap.Search(1, 50, num_simulations=3)
    while leaves := search.select(1):
        search.expand(
            leaves,
            tokens=[[[1, 2], [3]]],
            token_log_probs=[[[-0.5, -0.25], []]],
            child_values=[[0.5, 1.0]],
            child_scores=[[[0.0, 1.0], [1.0]]],
            rollouts=[[1.0]],
            rollout_tokens=[[[4, 5]]],
            rollout_log_probs=[[[-1.0, -2.0]]],
        )
    return search


def some_trees(**changes: Any) -> ap.Trees:
    given: dict[str, Any] = {
        "offsets": np.array([0, 3, 4]),
        "parent": np.array([-1, 0, 0, -1]),
        "columns": {
            "visits": np.array([3, 2, 0, 1]),
            "value": np.array([0.5, 1 / 3, np.nan, np.inf]),
            "half": np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32),
            "terminal": np.array([False, True, False, False]),
        },
        "texts": ["Q?", "step \u2713\n", None, ""],
        "names": ["a", "b"],
        "meta": {"model": "m", "list": [1, None]},
        "timeline": {"seconds": [0.0, 1.5], "answered": [0, 3]},
        "ragged": {
            "tokens": Ragged(np.array([7, 2**32 - 1, 0]), np.array([0, 0, 2, 2, 3])),
            "log_probs": Ragged(
                np.array([-0.1, np.nan, 0], dtype=np.float32), np.array([0, 0, 2, 2, 3])
            ),
        },
        "rollouts": TreeRollouts(
            np.array([0, 3, 3]),
            np.array([2, 0, 2]),
            {"reward": np.array([1.0, 1 / 3, np.nan]), "cut": np.array([True, False, False])},
            {"tokens": Ragged(np.array([5, 6, 7]), np.array([0, 2, 2, 3]))},
        ),
    }
    return ap.Trees(**(given | changes))


def assert_equal(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def assert_same_columns(a: ap.Trees | TreeRollouts, b: ap.Trees | TreeRollouts) -> None:
    assert_equal(a.offsets, b.offsets)
    assert set(a.columns) == set(b.columns) and set(a.ragged) == set(b.ragged)
    for name, column in a.columns.items():
        assert_equal(column, b.columns[name])
    for name, rows in a.ragged.items():
        assert_equal(rows.flat, b.ragged[name].flat)
        assert_equal(rows.offsets, b.ragged[name].offsets)


def assert_same(a: ap.Trees, b: ap.Trees) -> None:
    assert_same_columns(a, b)
    np.testing.assert_array_equal(a.parent, b.parent)
    assert (a.rollouts is None) == (b.rollouts is None)
    if a.rollouts is not None and b.rollouts is not None:
        assert_same_columns(a.rollouts, b.rollouts)
        assert_equal(a.rollouts.node, b.rollouts.node)
    assert (a.texts is None) == (b.texts is None) and list(a.texts or []) == list(b.texts or [])
    assert a.names == b.names and a.meta == b.meta
    assert {n: list(v) for n, v in a.timeline.items()} == {
        n: list(v) for n, v in b.timeline.items()
    }


ENDINGS = ["json", "json.gz", "parquet", "arrow", "safetensors"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_give_back_what_was_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"trees.{ending}"
    for trees in (
        some_trees(),
        some_trees(texts=None, names=None, meta={}, timeline={}, ragged={}, rollouts=None),
        some_trees().select([1]),
        ap.Trees.from_search(searched(), lambda tree, node: f"{tree}/{node}"),
        ap.Trees.from_search(with_tokens()),
        ap.Trees.from_search(with_log_probs()),
    ):
        ap.write_trees(path, trees)
        assert_same(trees, ap.read_trees(path))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["json", "parquet", "arrow", "safetensors"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"trees.{ending}"
    ap.write_trees(path, some_trees())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        raw = bytearray(whole)
        for place in rng.integers(len(raw), size=3):
            raw[place] = rng.integers(256)
        path.write_bytes(raw[: rng.integers(len(raw) + 1)] if rng.random() < 0.3 else raw)
        try:
            ap.read_trees(path)
        except ap.FileFormatError as error:
            assert path.name in str(error)


def test_safetensors_agree_with_the_package(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = tmp_path / "trees.safetensors"
    trees = some_trees()
    ap.write_trees(path, trees)
    loaded = load_file(path)
    np.testing.assert_array_equal(loaded["parent"], trees.parent)
    for name, column in trees.columns.items():
        np.testing.assert_array_equal(loaded[f"column.{name}"], column)
        assert loaded[f"column.{name}"].dtype == column.dtype
    assert loaded["text.bytes"].tobytes().decode() == "Q?step \u2713\n"


def test_a_search_becomes_trees() -> None:
    search = searched()
    nodes = search.nodes()
    trees = ap.Trees.from_search(search, {(1, 0): "root"}, names=["x", "y"])
    assert len(trees) == 2 and trees.num_nodes == len(nodes.parent)
    np.testing.assert_array_equal(trees.depth, nodes.depth)
    unvisited = nodes.visits == 0
    assert unvisited.any() and np.isnan(trees.columns["value"][unvisited]).all()
    np.testing.assert_array_equal(trees.columns["value"][~unvisited], nodes.value[~unvisited])
    assert trees.texts is not None and trees.texts[int(nodes.offsets[1])] == "root"
    timeline = search.timeline
    assert timeline["answered"][-1] == search.simulations.sum() + 2
    assert timeline["tokens"][-1] == timeline["rollouts"][-1] == 0
    assert timeline["seconds"] == sorted(timeline["seconds"])
    one = trees.select([1])
    np.testing.assert_array_equal(one.parent, nodes.parent[int(nodes.offsets[1]) :])
    assert one.names == ["y"]


def test_tokens_and_rollouts_of_a_search_are_kept() -> None:
    search = with_tokens()
    trees, rollouts = ap.Trees.from_search(search), search.rollouts()
    assert trees.rollouts is not None
    assert_equal(trees.ragged["tokens"].flat, search.tokens()[0])
    assert_equal(trees.rollouts.columns["reward"], rollouts.reward)
    assert_equal(trees.rollouts.ragged["tokens"].flat, rollouts.tokens)
    two = trees.select([2, 0])
    assert two.rollouts is not None and len(two.rollouts) == sum(np.diff(rollouts.offsets)[[2, 0]])
    first = int(rollouts.offsets[2])
    np.testing.assert_array_equal(
        two.rollouts.ragged["tokens"].row(1), trees.rollouts.ragged["tokens"].row(first + 1)
    )
    np.testing.assert_array_equal(
        two.ragged["tokens"].row(1), trees.ragged["tokens"].row(int(trees.offsets[2]) + 1)
    )


def test_log_probs_and_scores_are_kept_where_they_were_told() -> None:
    trees = ap.Trees.from_search(with_log_probs())
    assert trees.rollouts is not None and set(trees.ragged) == {"tokens", "log_probs", "scores"}
    assert trees.ragged["log_probs"].row(1).tolist() == [-0.5, -0.25]
    assert np.isnan(trees.ragged["log_probs"].row(2)).all()
    assert trees.ragged["scores"].row(1).tolist() == [0.0, 1.0]
    assert trees.rollouts.ragged["log_probs"].row(0).tolist() == [-1.0, -2.0]
    trees = ap.Trees.from_search(with_tokens())
    assert trees.rollouts is not None
    assert set(trees.ragged) == set(trees.rollouts.ragged) == {"tokens"}
    assert ap.Trees.from_search(searched()).ragged == {}


def test_parents_over_all_trees_are_what_credit_reads() -> None:
    trees = some_trees().select([1, 0, 0])
    assert trees.parents.tolist() == [-1, -1, 1, 1, -1, 4, 4]
    outcomes = [1.0, np.nan, 1.0, 0.0, np.nan, 0.0, 0.0]
    rollouts = ap.Rollouts.from_tree(trees.parents, outcome_rewards=outcomes)
    assert ap.credit("spo", rollouts).values["advantages"][1].tolist() == [0, 0, 0.5, -0.5, 0, 0, 0]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_not_there(tmp_path: Path, ending: str) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ap.read_trees(tmp_path / f"nowhere.{ending}")


def test_rows_that_do_not_fit() -> None:
    rows, rollouts = Ragged(np.arange(3), np.array([0, 1, 1, 3, 3])), some_trees().rollouts
    assert rollouts is not None
    for ragged, words in (
        ({"tokens": Ragged(rows.flat, rows.offsets[:-1])}, r"tokens\.offsets: expected 5"),
        ({"tokens": Ragged(rows.flat[:2], rows.offsets)}, r"tokens\.offsets: got 3 at the end"),
        ({"tokens": Ragged(rows.flat, rows.offsets[::-1])}, r"tokens\.offsets: expected 5"),
        ({"tokens": Ragged(np.array(["x"] * 3), rows.offsets)}, r"tokens\.flat: got <U1"),
        ({"tokens": [[1], [], [2], []]}, "tokens: got list, expected Ragged"),
        ({"visits": rows}, "visits: is there twice"),
    ):
        with pytest.raises(ap.ApportionError, match=words):
            some_trees(ragged=ragged)
    for changes, words in (
        ({"offsets": np.array([0, 3])}, r"rollouts\.offsets: expected 3"),
        ({"node": np.array([0, 3, 0])}, r"rollouts\.node\[1\]: got 3, expected 0 to 2"),
        ({"node": np.array([0])}, r"rollouts\.node: got shape \(1,\), expected \(3,\)"),
        ({"columns": {"reward": np.zeros(2)}}, r"rollouts\.reward: got shape \(2,\)"),
    ):
        with pytest.raises(ap.InputError, match=words):
            some_trees(rollouts=replace(rollouts, **changes))


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_files_of_the_first_version_are_read(tmp_path: Path, ending: str) -> None:
    trees = some_trees(ragged={}, rollouts=None)
    path = tmp_path / f"trees.{ending}"
    ap.write_trees(path, trees)
    old = path.read_bytes().replace(b'"ragged": {}, ', b"")
    for quote in (b'"', b'\\"'):
        old = old.replace(quote + b"version" + quote + b": 2", quote + b"version" + quote + b": 1")
    assert b"1" in old and old != path.read_bytes()
    path.write_bytes(old)
    assert_same(trees, ap.read_trees(path))


def test_the_timeline_is_bounded() -> None:
    from apportion.search.timeline import POINTS, Timeline

    timeline = Timeline()
    for _ in range(5_000):
        timeline.note("fail", ([0],))
    columns = timeline.columns()
    assert POINTS // 4 < len(columns["seconds"]) <= POINTS + 1
    assert columns["failed"][0] == 0 and columns["failed"][-1] == 5_000


def test_leaves_and_depths() -> None:
    trees = ap.Trees(np.array([0, 6, 7]), np.array([-1, 0, 0, 1, 1, 4, -1]))
    assert trees.depth.tolist() == [0, 1, 1, 2, 2, 3, 0]
    assert trees.num_leaves.tolist() == [3, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": [0, 3, 3, 4]}, r"offsets\[2\]: got rows 3 to 3"),
        ({"offsets": [1, 4]}, r"offsets: expected .* begins with 0"),
        ({"offsets": [0, 3]}, r"parent: got shape \(4,\), expected \(3,\)"),
        ({"parent": [-1, 0, 2, -1]}, r"parent\[2\]: got 2, expected an earlier node, 0 to 1"),
        ({"parent": [-1, 0, 0, 0]}, r"parent\[3\]: got 0, expected -1 at a root"),
        ({"parent": [-1, 0, -1, -1]}, r"parent\[2\]: got -1"),
        ({"columns": {"value": [1.0]}}, r"value: got shape \(1,\), expected \(4,\)"),
        ({"columns": {"value": ["a"] * 4}}, r"value\[0\]: got 'a'"),
        ({"texts": ["a"]}, r"texts: got 1, expected 4"),
        ({"names": ["a"]}, r"names: got 1, expected 2"),
        ({"timeline": {"seconds": [1.0], "answered": [1, 2]}}, r"timeline: expected columns"),
    ],
)
def test_wrong_trees(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ap.InputError, match=message):
        some_trees(**changes)


def test_wrong_calls(tmp_path: Path) -> None:
    trees = some_trees()
    with pytest.raises(ap.InputError, match=r"trees\[0\]: got 2, expected a number from 0 to 1"):
        trees.to_svg(tree=2)
    with pytest.raises(ap.InputError, match="max_nodes: got 0"):
        trees.to_dot(max_nodes=0)
    with pytest.raises(ap.InputError, match=r"trees.txt: unknown ending, expected one of \.json"):
        ap.write_trees(tmp_path / "trees.txt", trees)
    with pytest.raises(ap.InputError, match="format: got 'x', expected one of auto"):
        ap.read_trees(tmp_path / "trees.json", "x")
    with pytest.raises(ap.InputError, match="trees: got none"):
        ap.Trees(np.array([0]), np.zeros(0, np.int64)).to_html()
    with pytest.raises(ap.DtypeError, match="texts: got int"):
        ap.Trees.from_search(searched(), 3)  # type: ignore[arg-type]


# Other projects' files, written as their code writes them from the cases' numbers.


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


# Pictures.


def hostile_trees() -> ap.Trees:
    count = len(HOSTILE)
    parent = np.array([-1, *range(count - 1)])
    columns = {"visits": np.arange(count, 0, -1), "value": np.linspace(-1, 1, count)}
    return ap.Trees(np.array([0, count]), parent, columns, texts=HOSTILE, names=[HOSTILE[0]])


def embedded_block(page: str) -> str:
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return str(block)


def embedded(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(embedded_block(page))
    return found


def test_page_embeds_texts_as_data() -> None:
    page = hostile_trees().to_html(title="<b>\x00</title>", source=HOSTILE[0])
    data = embedded(page)
    assert [data["strings"][i] for i in data["texts"]] == HOSTILE
    assert data["names"] == [HOSTILE[0]]
    assert page.count("<script") == 2 and "<img" not in page and page.count("</title>") == 1
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    page = page.replace(embedded_block(page), "")
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)


def test_page_of_ten_thousand_nodes_is_small_and_quick() -> None:
    search = searched(roots=1, simulations=2_600, children=4)
    begun = time.process_time()
    page = search.to_html(texts=lambda tree, node: f"step {node % 50}")
    assert time.process_time() - begun < 2
    assert len(embedded(page)["parent"]) > 10_000 and len(page) < 2_000_000


def test_page_names_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.trees.page.MAX_NODES", 3)
    data = embedded(some_trees().to_html())
    assert data["left_out"] == 1 and data["parent"] == [-1, 0, 0]


def test_svg_is_whole_and_inert(tmp_path: Path) -> None:
    path = tmp_path / "tree.svg"
    hostile_trees().to_svg(path)
    root = ET.fromstring(path.read_text("utf-8"))
    names = {node.tag.split("}")[1] for node in root.iter()}
    assert names == {"svg", "style", "rect", "g", "title", "path", "text"}
    titles = [node.text or "" for node in root.iter() if node.tag.endswith("title")]
    assert "</script><img src=x onerror=document.title='broken'>" in titles[0]


def test_drawings_keep_parents_and_say_what_is_missing() -> None:
    trees = ap.Trees.from_search(searched(roots=1, simulations=60))
    drawn = trees.to_svg(max_nodes=20)
    assert drawn.count("<g>") == 20
    assert f"{trees.num_nodes - 20} less visited nodes not drawn" in drawn
    dot = trees.to_dot(max_nodes=20)
    made = set(re.findall(r"^  n(\d+) \[", dot, re.M))
    edges = re.findall(r"^  n(\d+) -> n(\d+) ", dot, re.M)
    assert len(made) == 20 and len(edges) == 19
    for parent, child in edges:
        assert trees.parent[int(child)] == int(parent) and {parent, child} <= made


def test_dot_strings_are_closed() -> None:
    dot = hostile_trees().to_dot()
    strings = re.findall(r'"(?:[^"\\]|\\.)*"', dot, re.S)
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', "", dot, flags=re.S)
    assert '"' not in rest and "img" not in rest and len(strings) > 2 * len(HOSTILE)
    if graphviz := shutil.which("dot"):
        subprocess.run([graphviz, "-Tsvg"], input=dot.encode(), check=True, capture_output=True)


def test_trees_without_numbers_or_with_equal_ones_are_drawn() -> None:
    bare = ap.Trees(np.array([0, 3]), np.array([-1, 0, 1]))
    same = ap.Trees(np.array([0, 1]), np.array([-1]), {"value": np.array([0.0])})
    for trees in (bare, same):
        assert "<svg" in trees.to_svg() and "digraph" in trees.to_dot()
        assert embedded(trees.to_html())["parent"] == trees.parent.tolist()


def test_a_chain_of_many_nodes_is_no_trouble() -> None:
    count = 20_000
    trees = ap.Trees(np.array([0, count]), np.arange(-1, count - 1))
    assert trees.depth[-1] == count - 1 and trees.num_leaves.tolist() == [1] * count
    assert trees.to_svg(max_nodes=50).count("<g>") == 50
    assert len(trees.to_html()) < 2_000_000


if CHROMIUM := shutil.which("chromium") or shutil.which("google-chrome"):

    def browse(path: Path, profile: Path) -> str:
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
            "--virtual-time-budget=2000", "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, timeout=120, check=True)
        return run.stdout.decode("utf-8", "replace")

    def test_a_browser_draws_it(tmp_path: Path) -> None:
        path = tmp_path / "tree.html"
        hostile_trees().to_html(path, title="Drawn")
        page = browse(path, tmp_path / "profile")
        assert 'data-ready="yes"' in page and "<title>Drawn</title>" in page
        drawn = page.split('id="app"', 1)[1].split("<script type=", 1)[0]
        assert drawn.count('role="treeitem"') == drawn.count('class="cell') == len(HOSTILE)
        assert "<img" not in drawn and "<script" not in drawn and "[object" not in drawn
        assert "&lt;/script&gt;&lt;img src=x onerror=" in drawn

    def test_a_browser_draws_ten_thousand_nodes(tmp_path: Path) -> None:
        path = tmp_path / "tree.html"
        searched(roots=1, simulations=2_600, children=4).to_html(path)
        page = browse(path, tmp_path / "profile")
        assert 'data-ready="yes"' in page
        assert 10 < page.count('role="treeitem"') < 200 < page.count('class="cell') < 5_000
