"""Pictures of trees: that they show what there is, and that no text does harm."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap
from some_trees import searched, some_trees, with_tokens

HOSTILE = [
    "</script><img src=x onerror=document.title='broken'>",
    "<!--<script>",
    "]]></title><svg onload=alert(1)>",
    'quote " back \\ slash \\N \\l {<f0>|}',
    "controls \x00 \x07 \x1b[31m \x85 \u2028 \ufeff \uffff",
    "right to left \u202e abc \u202c \u05d0\u05d1",
    "&lt;b&gt; &amp; \\u003c",
]


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


def test_page_leaves_out_columns_that_say_nothing() -> None:
    plain, merged = searched(roots=1), ap.Search(1, 9, merge=True)
    merged.expand(merged.select(1), values=[0.5], keys=[[7, 8, 7]])
    merged.expand(merged.select(1), values=[0.5], children=0)
    columns = embedded(plain.to_html())["columns"]
    assert "state" not in columns and "proven" not in columns and "prior" in columns
    assert embedded(merged.to_html())["columns"]["state"] == [0, 1, 2, 1]


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

    def test_a_browser_draws_a_chart_of_each_budget(tmp_path: Path) -> None:
        path = tmp_path / "tree.html"
        search = with_tokens()
        search.to_html(path)
        page = browse(path, tmp_path / "profile")
        spent = {name: column[-1] for name, column in search.timeline.items()}
        named = ("leaves answered", "children proposed", "rollouts", "tokens")
        for words, name in zip(named, ("answered", "nodes", "rollouts", "tokens"), strict=True):
            assert f"<figcaption><b>{spent[name]:,}</b> {words}</figcaption>" in page
        assert "leaves failed" not in page.split('id="app"', 1)[1].split("<script", 1)[0]

    def test_a_browser_draws_ten_thousand_nodes(tmp_path: Path) -> None:
        path = tmp_path / "tree.html"
        searched(roots=1, simulations=2_600, children=4).to_html(path)
        page = browse(path, tmp_path / "profile")
        assert 'data-ready="yes"' in page
        assert 10 < page.count('role="treeitem"') < 200 < page.count('class="cell') < 5_000
