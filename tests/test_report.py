"""The HTML report: what it embeds, and that no text in it can do harm."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap

HOSTILE = [
    "</script><img src=x onerror=document.title='broken'>",
    "<!--<script>",
    "]]></style><svg onload=alert(1)>",
    "lone \ud800 surrogate \udfff",
    "controls \x00 \x07 \x1b[31m \x85 \u2028 \u2029 \ufeff",
    "right to left \u202e abc \u202c \u05d0\u05d1",
    "&lt;b&gt; &amp; \\u003c \\",
    "${7*7} {{7*7}} javascript:alert(1)",
]


def record(group: Any, outcome: float | None, texts: Sequence[str], **turn: Any) -> dict[str, Any]:
    turns = [
        {"text": t, "observation": f"seen {t}", "anchor": whole(t), "tokens": [1, 2], **turn}
        for t in texts
    ]
    return {"group": group, "outcome": outcome, "turns": turns}


def pair(*texts: str) -> ap.Rollouts:
    return ap.Rollouts.from_lists([record("g", 1.0, texts), record("g", 0.0, texts)])


def by_turn(values: Sequence[float]) -> Callable[..., Any]:
    def given(rollouts: ap.Rollouts) -> Any:
        return np.asarray(values)

    return given


def whole(text: str) -> str:
    """Halves of surrogate pairs are no text: they become U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def page_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def embedded(page: str) -> dict[str, Any]:
    blocks = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert len(blocks) == 1
    found: dict[str, Any] = json.loads(blocks[0])
    return found


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., tuple[str, dict[str, Any]]]:
    def write(
        rollouts: ap.Rollouts, *credits: ap.Credit, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        path = tmp_path / "report.html"
        ap.write_report(path, rollouts, credits or ap.credit("grpo", rollouts), **options)
        assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
        page = page_of(path)
        return page, embedded(page)

    return write


Write = Callable[..., tuple[str, dict[str, Any]]]


def kinds(data: Mapping[str, Any]) -> dict[str, list[int]]:
    return {finding["kind"]: finding["groups"] for finding in data["findings"]}


def test_hostile_text_comes_back_as_data(written: Write) -> None:
    rollouts = pair(*HOSTILE)
    title = "<b>\ud800 & \x00</title>"
    page, data = written(rollouts, title=title, source=HOSTILE[0])
    block = page.split('id="data">', 1)[1].split("</script>", 1)[0]
    assert not set("<>&\u2028\u2029\ufeff\x85") & set(block)
    assert data["title"] == whole(title) and data["source"] == HOSTILE[0]
    assert [data["strings"][i] for i in data["turns"]["text"]] == [whole(t) for t in HOSTILE] * 2
    assert page.count("<script") == 2 and page.count("</script>") == 2
    assert "<img" not in page and page.count("</title>") == 1 and "\x00" not in page


def test_policy_admits_the_own_script_and_style_alone(written: Write) -> None:
    page, _ = written(pair("a"))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        assert len(inline) == 1
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    assert not re.search(
        r"""(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", page
    )


def test_numbers_round_trip(written: Write) -> None:
    rng = np.random.default_rng(0)
    rollouts = ap.Rollouts.from_lists(
        [record(i // 4, float(rng.normal()), "abc", reward=0.1) for i in range(8)]
    )
    credit = ap.credit("grpo", rollouts, like="verl")
    other = ap.credit(by_turn(rng.normal(size=24).astype(np.float32)), rollouts)
    _, data = written(rollouts, credit, other)
    for one, shown in zip((credit, other), data["credits"], strict=True):
        np.testing.assert_allclose(shown["advantages"], one.turn_advantages, rtol=1e-8)
    exact = np.float32(data["credits"][1]["advantages"])
    assert (exact == other.turn_advantages.astype(np.float32)).all()
    np.testing.assert_allclose(
        data["trajectories"]["outcome"], rollouts.columns["outcome_rewards"], rtol=1e-8
    )
    assert data["turns"]["reward"] == [0.1] * 24 and data["turns"]["tokens"] == [2] * 24
    assert data["trajectories"]["turns"] == list(range(0, 25, 3))
    assert data["groups"] == ["0", "1"] and data["trajectories"]["group"] == [0] * 4 + [1] * 4
    assert data["counts"] == {"groups": 2, "trajectories": 8, "turns": 24, "tokens": 48}
    histogram = data["credits"][1]["histogram"]
    assert sum(histogram["counts"]) == 24 and histogram["zeros"] == 0


def test_method_and_options(written: Write) -> None:
    rollouts = pair("a")
    twice = [ap.credit("grpo", rollouts, eps=1e-4), ap.credit("grpo", rollouts, eps=1e-4)]
    _, data = written(rollouts, *twice, ap.credit("grpo", rollouts, like="trl"))
    assert [c["label"] for c in data["credits"]] == [
        "grpo eps=0.0001",
        "grpo eps=0.0001 #2",
        "grpo like trl",
    ]
    options = {name: (value, given) for name, value, given, _ in data["credits"][0]["options"]}
    assert options["eps"] == ("0.0001", True)
    assert len(options) == len(ap.methods()["grpo"].options)
    assert sum(given for _, given in options.values()) == 1
    assert data["credits"][0]["certainty"] == ap.methods()["grpo"].certainty


def test_findings(written: Write) -> None:
    rollouts = ap.Rollouts.from_lists(
        [
            record("mixed", 1.0, ["a"], reward=0.0),
            record("mixed", 0.0, ["a"], reward=None),
            record("equal", 1.0, ["b"], reward=0.0),
            record("equal", 1.0, [], reward=0.0),
            record("absent", None, ["c"], reward=0.0),
            record("absent", 1.0, ["d"], reward=0.0),
            record("one", 1.0, ["e"], tokens=[], reward=0.0),
        ]
    )
    _, data = written(rollouts)
    names = {kind: [data["groups"][g] for g in groups] for kind, groups in kinds(data).items()}
    alone = names.pop("alone", None)
    assert names == {
        "single": ["one"],
        "equal": ["equal", "absent"],
        "absent": ["absent"],
        "turn": ["mixed"],
        "bare": ["one"],
        "empty": ["equal"],
    }
    if "anchors" in ap.columns():
        assert alone == ["equal", "absent", "one"] and data["turns"]["alone"] == [2, 3, 4, 5]
    assert data["trajectories"]["outcome"][4] is None
    assert data["turns"]["reward"][:2] == [0.0, None]


def test_nan_credit_and_token_credit(written: Write) -> None:
    rollouts = pair("a", "b")
    tokens = np.arange(8, dtype=np.float64)
    _, data = written(rollouts, ap.credit(by_turn(tokens), rollouts))
    (shown,) = data["credits"]
    assert shown["advantages"] == [0.5, 2.5, 4.5, 6.5]
    assert shown["within"] == {"low": [0, 2, 4, 6], "high": [1, 3, 5, 7]}


def test_padded_without_texts(written: Write) -> None:
    mask = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    rewards = np.array([1.0, 0.0, np.nan])
    rollouts = ap.Rollouts.from_padded(mask, group_ids=[7, 7, 7], outcome_rewards=rewards)
    _, data = written(rollouts)
    assert data["strings"] == [] and data["turns"]["text"] is None
    assert data["turns"]["tokens"] == [2, 1, 1]
    assert data["trajectories"]["outcome"] == [1.0, 0.0, None]
    assert set(kinds(data)) == {"absent", "empty"}


def test_rows_that_are_turns(written: Write) -> None:
    rollouts = ap.Rollouts.from_padded(
        np.ones((4, 3)),
        group_ids=["g"] * 4,
        trajectory_ids=["x", "y", "x", "y"],
        turn_index=[1, 0, 0, 1],
        outcome_rewards=[1.0, 2.0, 1.0, 2.0],
        turn_rewards=[0.0, 10.0, 20.0, 30.0],
    )
    _, data = written(
        rollouts,
        ap.credit(by_turn([1.0, 2.0, 3.0, 4.0]), rollouts),
        ap.credit(by_turn(np.repeat([1.0, 2.0, 3.0, 4.0], 3)), rollouts),
    )
    assert data["turns"]["reward"] == [20.0, 0.0, 10.0, 30.0]
    assert data["trajectories"]["outcome"] == [1.0, 2.0]
    assert [c["level"] for c in data["credits"]] == ["turn", "token"]
    assert [c["advantages"] for c in data["credits"]] == [[3.0, 1.0, 2.0, 4.0]] * 2


def test_empty_batch_and_no_groups(written: Write) -> None:
    empty = ap.Rollouts.from_lists([])
    _, data = written(empty, ap.credit(by_turn([]), empty))
    assert data["counts"] == {"groups": 0, "trajectories": 0, "turns": 0, "tokens": 0}
    assert data["groups"] == [] and data["findings"] == []
    alone = ap.Rollouts.from_padded(np.ones((2, 3)))
    _, data = written(alone, ap.credit(by_turn([1.0, 2.0]), alone))
    assert data["groups"] == ["all"] and data["trajectories"]["outcome"] is None


def test_long_texts_are_cut_in_the_middle(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = written(pair("a" * 30_000 + "end", "short"))
    long = data["strings"][data["turns"]["text"][0]]
    assert len(long) < 20_100 and long.endswith("end") and "10,003 characters left out" in long
    assert data["text_limit"] == 20_000
    monkeypatch.setattr("apportion.report.data.MAX_TEXTS", 1_000)
    _, data = written(pair("a" * 30_000))
    assert sum(map(len, data["strings"])) < 1_200 and data["text_limit"] < 1_000


def test_a_thousand_trajectories_stay_small(written: Write) -> None:
    rng = np.random.default_rng(0)
    seen = [f"You are in room {i}. " * 10 for i in range(100)]
    records = [
        {
            "group": i // 8,
            "outcome": float(rng.integers(2)),
            "turns": [
                {"text": f"go {rng.integers(1e6)}", "observation": seen[k * 5], "tokens": [1] * 30}
                for k in range(20)
            ],
        }
        for i in range(1_000)
    ]
    rollouts = ap.Rollouts.from_lists(records)
    page, data = written(rollouts)
    assert data["counts"]["turns"] == 20_000
    assert len(page) < 2_000_000  # 100 bytes a turn; each observation is there once


def test_wrong_input(tmp_path: Path) -> None:
    rollouts, other = pair("a"), pair("a", "b")
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ap.InputError, match=r"credits: got none"):
        ap.write_report(path, rollouts, [])
    with pytest.raises(ap.InputError, match=r"credits\[1\]: got credit of 2 trajectories with 4"):
        credits = [ap.credit("grpo", rollouts), ap.credit("grpo", other)]
        ap.write_report(path, rollouts, credits)
    with pytest.raises(ap.InputError, match=r"credits\[0\]: got str"):
        ap.write_report(path, rollouts, ["grpo"])  # type: ignore[list-item]
    with pytest.raises(FileNotFoundError):
        missing = tmp_path / "missing" / "report.html"
        ap.write_report(missing, rollouts, ap.credit("grpo", rollouts))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


if CHROMIUM := shutil.which("chromium") or shutil.which("google-chrome"):

    def test_a_browser_draws_it(tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        rollouts = pair(*HOSTILE)
        ap.write_report(path, rollouts, ap.credit("grpo", rollouts), title="Drawn")
        run = subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=2000",
                "--dump-dom",
                path.as_uri(),
            ],
            capture_output=True,
            timeout=120,
            check=True,
        )
        page = run.stdout.decode("utf-8", "replace")
        assert 'data-ready="yes"' in page and "<title>Drawn</title>" in page
        assert page.count('class="turn') >= 2 * len(HOSTILE)
        drawn = page.split('id="app"', 1)[1].split("<script type=", 1)[0]
        assert "<img" not in drawn and "<script" not in drawn and "[object" not in drawn
        assert "&lt;/script&gt;&lt;img src=x onerror=" in drawn
