"""Trees in files: what a search keeps, what comes back, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.trees import Ragged
from some_trees import assert_equal, assert_same, searched, some_trees, with_log_probs, with_tokens

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
        timeline.note("fail", ([0],), None)
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
    with pytest.raises(ap.InputError, match=r"trees\[0\]: got 2, expected an integer from 0 to 1"):
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
