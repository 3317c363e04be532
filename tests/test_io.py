"""Files in and out: every format, every error with its place, streaming, atomic writes."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.io.groups import GroupedFile
from apportion.io.source import open_source
from apportion.io.write import CreditWriter

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Record = dict[str, Any]


def record(group: str | int, outcome: float | None, *turns: str, **more: Any) -> Record:
    described = [
        {"text": t, "observation": f"before {t}", "tokens": [1, 2], "log_probs": [-0.1, -0.2]}
        for t in turns
    ]
    return {"group": group, "outcome": outcome, "turns": described, **more}


def shuffled(groups: int = 7, size: int = 4) -> list[Record]:
    rng = random.Random(0)
    records = [
        record(
            f"g{g}", rng.random(), *rng.choices("abcd", k=rng.randint(1, 4)), trajectory=f"{g}/{i}"
        )
        for g in range(groups)
        for i in range(size)
    ]
    for r in records:
        for turn in r["turns"]:
            turn["reward"] = rng.choice([0.0, 0.5, None])
    rng.shuffle(records)
    return records


def write_lines(path: Path, records: list[Any]) -> Path:
    text = "".join(json.dumps(r) + "\n" for r in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def write_table(path: Path, records: list[Record]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def texts(rollouts: ap.Rollouts) -> list[str]:
    assert rollouts.turn_texts is not None
    return [turn["text"] for turn in rollouts.turn_texts]


# Formats


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.parquet"])
def test_our_schema(tmp_path: Path, name: str) -> None:
    records = shuffled()
    write = write_table if name.endswith("parquet") else write_lines
    rollouts = ap.read_rollouts(write(tmp_path / name, records))
    same = ap.Rollouts.from_lists(records)
    assert list(rollouts.trajectory_names or ()) == [r["trajectory"] for r in records]
    assert texts(rollouts) == texts(same)
    for method in ("grpo", "gigpo"):
        ours, theirs = ap.credit(method, rollouts), ap.credit(method, same)
        assert np.array_equal(ours.advantages, theirs.advantages)


def test_openai_messages(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is 1 + 1?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reward": 0.5},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    other = [*conversation[:2], {"role": "assistant", "content": "No idea."}]
    path = write_lines(
        tmp_path / "chat.jsonl",
        [{"messages": conversation, "reward": 1.0}, {"messages": other, "reward": 0}],
    )
    rollouts = ap.read_rollouts(path)
    assert rollouts.groups.tolist() == [0, 0]
    turns = rollouts.turn_texts or []
    assert [t["observation"] for t in turns] == [
        "system: Be brief.\n\nuser: What is 1 + 1?",
        "tool: 2",
        "system: Be brief.\n\nuser: What is 1 + 1?",
    ]
    assert json.loads(turns[0]["tool_calls"]) == [{"name": "add", "arguments": {"x": 1}}]
    assert turns[1]["text"] == "It is 2." and turns[1]["tool_calls"] == ""
    np.testing.assert_array_equal(rollouts.columns["turn_rewards"], [0.5, np.nan, np.nan])
    assert (ap.credit("grpo", rollouts).turn_advantages[[0, 2]] > 0).tolist() == [True, False]


def test_keys_are_configurable(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows = [{"messages": said, "task": t, "grade": g} for t, g in (("a", 1), ("b", 0), ("a", None))]
    path = write_lines(tmp_path / "chat.jsonl", rows)
    rollouts = ap.read_rollouts(path, group_key="task", reward_key="grade")
    assert rollouts.columns["group_ids"] == ["a", "b", "a"]
    np.testing.assert_array_equal(rollouts.columns["outcome_rewards"], [1, 0, np.nan])


def test_verl_dump(tmp_path: Path) -> None:
    def line(prompt: str, output: str, score: float, step: int) -> Record:
        return {
            "input": prompt,
            "output": output,
            "gts": "4",
            "score": score,
            "step": step,
            "acc": score > 0,
            "request_id": f"{prompt}-{output}",
        }

    rows = [line("2+2?", "4", 1.0, 7), line("3+3?", "4", 0.0, 7), line("2+2?", "5", 0.0, 7)]
    rollouts = ap.read_rollouts(write_lines(tmp_path / "7.jsonl", rows))
    assert rollouts.groups.tolist() == [0, 1, 0]
    assert texts(rollouts) == ["4", "4", "5"]
    assert list(rollouts.trajectory_names or ()) == ["2+2?-4", "3+3?-4", "2+2?-5"]
    later = write_lines(tmp_path / "8.jsonl", [*rows, line("2+2?", "4", 1.0, 8)])
    assert ap.read_rollouts(later).groups.tolist() == [0, 1, 0, 2]


def test_trl_completions(tmp_path: Path) -> None:
    table = pa.table(
        {
            "step": [3, 3, 3],
            "prompt": ["Say hi.", "Say hi.", "Say ho."],
            "completion": ["hi", "hello", "ho"],
            "accuracy_reward": [1.0, 0.0, 1.0],
            "format_reward": [0.5, None, float("nan")],
            "advantage": [0.7, -0.7, 0.0],
        }
    )
    path = tmp_path / "completions_00003.parquet"
    pq.write_table(table, path)
    rollouts = ap.read_rollouts(path)
    assert rollouts.groups.tolist() == [0, 0, 1]
    assert np.asarray(rollouts.columns["outcome_rewards"]).tolist() == [1.5, 0.0, 1.0]
    matrix, width = rollouts.columns["reward_matrix"]
    np.testing.assert_array_equal(matrix.reshape(-1, width), [[1, 0.5], [0, np.nan], [1, np.nan]])
    one = ap.read_rollouts(path, reward_key="accuracy_reward")
    assert "reward_matrix" not in one.columns


def test_trl_conversations(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "Play."}]
    said = [
        {"role": "assistant", "content": "north"},
        {"role": "tool", "content": "a wall"},
        {"role": "assistant", "content": "south"},
    ]
    rows = [{"step": 1, "prompt": prompt, "completion": said, "won": 1.0, "advantage": 0.0}]
    rollouts = ap.read_rollouts(write_table(tmp_path / "c.parquet", rows * 2))
    turns = rollouts.turn_texts or []
    assert [t["text"] for t in turns[:2]] == ["north", "south"]
    assert [t["observation"] for t in turns[:2]] == ["user: Play.", "tool: a wall"]
    assert rollouts.groups.tolist() == [0, 0]


def test_nan_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(
        '{"group": 1, "outcome": NaN, "turns": [{"text": "a"}]}\n\n'
        '{"group": 1, "outcome": null, "turns": [{"text": "a", "reward": NaN}]}\n'
    )
    credit = ap.credit("grpo", ap.read_rollouts(path))
    assert credit.counts["absent"] >= 2 and (credit.turn_advantages == 0).all()


# Errors

GOOD = record("g", 1.0, "a")


def turn(**fields: Any) -> Record:
    return {**GOOD, "turns": [GOOD["turns"][0], {"text": "b", **fields}]}


BAD_LINES: list[tuple[str, str]] = [
    ("{", "line: not JSON at column 2"),
    ("[1]", "line: got list, expected an object"),
    ('{"group": Infinity}', "line: got Infinity, expected finite"),
    ("[" * 5000 + "]" * 5000, "line: nested more than 100 deep"),
    (json.dumps({**GOOD, "meta": json.loads("[" * 200 + "]" * 200)}), "line: nested more than 100"),
    ('{"group": "\\ud800", "outcome": 1, "turns": []}', "line: got \\ud800, half of a surrogate"),
    (json.dumps({k: v for k, v in GOOD.items() if k != "group"}), "group: missing; got outcome"),
    (json.dumps({k: v for k, v in GOOD.items() if k != "outcome"}), "outcome: missing"),
    (json.dumps({k: v for k, v in GOOD.items() if k != "turns"}), "turns: missing"),
    (json.dumps({**GOOD, "group": None}), "group: got null, expected a string or an integer"),
    (json.dumps({**GOOD, "group": [1]}), "group: got a list"),
    (json.dumps({**GOOD, "trajectory": {}}), "trajectory: got an object"),
    (json.dumps({**GOOD, "outcome": "1"}), "outcome: got a string '1', expected a number"),
    (json.dumps(GOOD).replace("1.0", "1e999"), "outcome: got infinity"),
    (json.dumps({**GOOD, "turns": {}}), "turns: got an object, expected a list"),
    (json.dumps({**GOOD, "turns": ["a"]}), "turns[0]: got a string 'a', expected an object"),
    (json.dumps({**GOOD, "turns": [{"reward": 1}]}), "turns[0]: no text and no tokens; got reward"),
    (json.dumps(turn(text=3)), "turns[1].text: got a number 3, expected a string"),
    (json.dumps(turn(observation=[])), "turns[1].observation: got a list"),
    (json.dumps(turn(anchor=1.5)), "turns[1].anchor: got a number 1.5"),
    (json.dumps(turn(tokens="ab")), "turns[1].tokens: got a string 'ab', expected a list"),
    (json.dumps(turn(tokens=[1, 2.5])), "turns[1].tokens[1]: got 2.5, expected an integer"),
    (json.dumps(turn(tokens=[1, True])), "turns[1].tokens[1]: got True"),
    (json.dumps(turn(tokens=[1], log_probs=[])), "turns[1].log_probs: got 0 values, expected 1"),
    (
        json.dumps(turn(tokens=[1], log_probs=[float("nan")])),
        "turns[1].log_probs[0]: got nan, expected a finite number",
    ),
    (json.dumps(turn(reward="x")), "turns[1].reward: got a string 'x'"),
    (json.dumps(turn(reward=10**400)), "turns[1].reward: got infinity"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[m[:40] for _, m in BAD_LINES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_bad_line_names_file_line_and_field(
    tmp_path: Path, line: str, message: str, stream: bool
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + line + "\n")
    with pytest.raises(ap.FileFormatError) as raised:
        list(ap.iter_groups(path)) if stream else ap.read_rollouts(path)
    assert str(raised.value).startswith(f"{path}:3: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b'{"a": 1}\n', ":1: unknown format: got the fields a; expected those of apportion"),
        (b"[{}]\n", ":1: line: got list, expected one object a line"),
        (b"\xff\xfe\n", ":1: line: not UTF-8 at byte 1"),
        (b"PAR1 and no more", "not readable as Parquet"),
        (gzip.compress(json.dumps(GOOD).encode() * 9000)[:-9], "broken gzip data"),
    ],
)
def test_bad_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(ap.FileFormatError) as raised:
        ap.read_rollouts(path)
    assert str(path) in str(raised.value) and message in str(raised.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "x"}, "messages: got a string 'x', expected a list of messages"),
        ({"messages": [{"content": "x"}]}, "messages[0]: expected an object with a role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content: got a number 1"),
        ({"messages": []}, "reward: no outcome: none of reward, score, outcome"),
        ({"messages": [], "score": "x"}, "score: got a string 'x'"),
        ({"input": 1, "output": ""}, "input: got a number 1, expected a string"),
        ({"input": "", "output": ""}, "score: no outcome"),
        ({"prompt": "", "completion": 1, "r": 1}, "completion: got a number 1, expected a list"),
        ({"prompt": "", "completion": ""}, "rewards: no column of numbers"),
    ],
)
def test_bad_row_of_a_trainer(tmp_path: Path, row: Record, message: str) -> None:
    path = write_lines(tmp_path / "bad.jsonl", [row])
    with pytest.raises(ap.FileFormatError) as raised:
        ap.read_rollouts(path)
    assert str(raised.value).startswith(f"{path}:1: {message}")


def test_bad_parquet_row(tmp_path: Path) -> None:
    path = write_table(tmp_path / "r.parquet", [GOOD, {**GOOD, "group": None}])
    with pytest.raises(ap.FileFormatError, match=r"r\.parquet, row 2: group: got null"):
        ap.read_rollouts(path)


def test_a_column_that_some_records_lack(tmp_path: Path) -> None:
    records = [{**GOOD, "reward_matrix": [1, 2]}, GOOD]
    path = write_lines(tmp_path / "r.jsonl", records)
    with pytest.raises(ap.FileFormatError, match=r"r\.jsonl:2: reward_matrix: missing, but .*:1"):
        list(ap.iter_groups(path))


def test_huge_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.io.lines.MAX_LINE", 2**20)
    path = tmp_path / "r.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + b"x" * (2**20 + 1))
    with pytest.raises(ap.FileFormatError, match=r"r\.jsonl:2: line: got more than 1 MB"):
        ap.read_rollouts(path)


def test_arguments(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", [GOOD])
    with pytest.raises(ap.InputError, match="format: got 'xml', expected auto or one of"):
        ap.read_rollouts(path, "xml")
    with pytest.raises(ap.FileFormatError, match="is a folder"):
        ap.read_rollouts(tmp_path)
    with pytest.raises(FileNotFoundError):
        ap.read_rollouts(tmp_path / "none.jsonl")
    with pytest.raises(ap.FileFormatError, match=r"r\.jsonl:1: messages: got null"):
        ap.read_rollouts(path, "openai")


def test_missing_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "r.parquet", [GOOD])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ap.ExtraMissingError, match=r'pip install "apportion\[cli\]"'):
        ap.read_rollouts(path)


# Streaming


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.parquet"])
@pytest.mark.parametrize("method", ["grpo", "gigpo"])
@pytest.mark.parametrize("at_least", [1, 1500, 2**20])
def test_streaming_equals_reading_whole(
    tmp_path: Path, name: str, method: str, at_least: int
) -> None:
    records = shuffled()
    write = write_table if name.endswith("parquet") else write_lines
    path = write(tmp_path / name, records)

    def by_name(batches: Any) -> dict[str, list[float]]:
        found = {}
        for rollouts in batches:
            turns = ap.credit(method, rollouts).turn_advantages
            for i, trajectory in enumerate(rollouts.trajectory_names):
                start, stop = rollouts.turns[0][i : i + 2]
                found[trajectory] = turns[start:stop].tolist()
        return found

    with GroupedFile(open_source(path)) as file:
        assert len(file) == len(records)
        streamed = by_name(file.batches(at_least))
    assert streamed == by_name([ap.read_rollouts(path)])


def test_iter_groups_gives_whole_groups(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", shuffled(groups=5, size=3))
    groups = list(ap.iter_groups(path))
    assert [len(g) for g in groups] == [3] * 5
    assert len({g.columns["group_ids"][0] for g in groups}) == 5


def test_a_group_without_a_column_of_the_file(tmp_path: Path) -> None:
    """Groups whose turns have no reward still have the column, as in the whole file."""
    with_rewards = record("a", 1.0, "x")
    with_rewards["turns"][0]["reward"] = 0.5
    half = record("b", 0.0, "y", "z")
    del half["turns"][1]["log_probs"]
    path = write_lines(tmp_path / "r.jsonl", [with_rewards, half])
    whole = ap.read_rollouts(path)
    for rollouts in ap.iter_groups(path):
        assert rollouts.columns.keys() == whole.columns.keys()


def test_head_keeps_groups_whole(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", shuffled(groups=5, size=4))
    with GroupedFile(open_source(path)) as file:
        assert [len(file.head(n)) for n in (1, 4, 5, 100)] == [4, 4, 8, 20]


# Writing


def small_credit() -> ap.Credit:
    records = [record("a", 1.0, "x", "y"), record(3, None, "z"), record("a", 0.0, "x")]
    records[1]["turns"][0].pop("tokens")
    records[1]["turns"][0].pop("log_probs")
    return ap.credit("grpo", ap.Rollouts.from_lists(records), like="trl", eps=0.5)


def test_jsonl(tmp_path: Path) -> None:
    credit = small_credit()
    ap.write_credit(tmp_path / "c.jsonl", credit, source="r.jsonl")
    ap.write_credit(tmp_path / "c.jsonl.gz", credit, source="r.jsonl")
    text = (tmp_path / "c.jsonl").read_bytes()
    assert gzip.decompress((tmp_path / "c.jsonl.gz").read_bytes()) == text
    meta, *rows = map(json.loads, text.splitlines())
    assert meta["meta"]["method"] == "grpo" and meta["meta"]["like"] == "trl"
    assert meta["meta"]["options"]["eps"] == 0.5 and meta["meta"]["options"]["singleton"] == "zero"
    assert meta["meta"]["source"] == "r.jsonl" and meta["meta"]["apportion"] == ap.__version__
    a = credit.turn_advantages
    assert rows == [
        {
            "group": "a",
            "trajectory": "0",
            "outcome": 1.0,
            "turn_advantages": [a[0], a[1]],
            "token_advantages": [[a[0], a[0]], [a[1], a[1]]],
        },
        {"group": 3, "trajectory": "1", "outcome": None, "turn_advantages": [0.0]},
        {
            "group": "a",
            "trajectory": "2",
            "outcome": 0.0,
            "turn_advantages": [a[3]],
            "token_advantages": [[a[3], a[3]]],
        },
    ]


def test_parquet(tmp_path: Path) -> None:
    ap.write_credit(tmp_path / "c.parquet", small_credit())
    ap.write_credit(tmp_path / "c.jsonl", small_credit())
    table = pq.read_table(tmp_path / "c.parquet")
    meta, *rows = map(json.loads, (tmp_path / "c.jsonl").read_text().splitlines())
    assert json.loads(table.schema.metadata[b"apportion"]) == meta["meta"]
    full = [
        {**r, "group": str(r["group"]), "token_advantages": r.get("token_advantages")} for r in rows
    ]
    assert table.to_pylist() == full


def test_parts_beside_the_advantages(tmp_path: Path) -> None:
    rewards = [[0.5, 0.0], [0.1, 0.0]]
    rollouts = ap.Rollouts.from_lists([record("a", 1.0, "x", "y"), record("a", 0.0, "x", "y")])
    credit = ap.credit("a2tgpo", rollouts.with_columns(turn_rewards=rewards))
    ap.write_credit(tmp_path / "c.jsonl", credit)
    row = json.loads((tmp_path / "c.jsonl").read_text().splitlines()[1])
    scale = row["turn_clip_scale"]
    assert len(scale) == 2 and scale[0] != 1.0
    assert row["token_clip_scale"] == [[scale[0]] * 2, [scale[1]] * 2]


def test_padded_rollouts_are_written_too(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]])
    rollouts = ap.Rollouts.from_padded(
        mask, group_ids=[("p", 1), ("p", 1)], outcome_rewards=[1.0, 0.0]
    )
    credit = ap.credit("grpo", rollouts)
    ap.write_credit(tmp_path / "c.jsonl", credit)
    row = json.loads((tmp_path / "c.jsonl").read_text().splitlines()[1])
    assert [len(turn) for turn in row["token_advantages"]] == [2, 1]


def test_step_rows_are_written_by_trajectory(tmp_path: Path) -> None:
    rollouts = ap.Rollouts.from_padded(
        np.ones((4, 2), dtype=int),
        group_ids=[1, 1, 1, 1],
        trajectory_ids=["t", "u", "t", "u"],
        turn_index=[1, 0, 0, 1],
        outcome_rewards=[1.0, 0.0, 1.0, 0.0],
        anchors=["b", "a", "a", "c"],
        turn_rewards=[0.0, 0.0, 0.7, 0.0],
    )
    credit = ap.credit("gigpo", rollouts)
    ap.write_credit(tmp_path / "c.jsonl", credit)
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()[1:]]
    padded = credit.to_padded("advantages", np.float64)[:, 0]
    assert rows[0]["turn_advantages"] == [padded[2], padded[0]]
    assert rows[1]["turn_advantages"] == [padded[1], padded[3]]


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.parquet"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_half_written_is_left(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    path = tmp_path / name
    path.write_text("before")
    with pytest.raises(error), CreditWriter(path, {}) as writer:
        writer.write(small_credit())
        raise error
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_failing_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apportion.io.write.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        ap.write_credit(tmp_path / "c.jsonl", small_credit())
    assert list(tmp_path.iterdir()) == []


def test_unknown_endings_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ap.InputError, match=r"c\.csv: unknown ending"):
        ap.write_credit(tmp_path / "c.csv", small_credit())
    ap.write_credit(tmp_path / "c.csv", small_credit(), format="jsonl")
    with pytest.raises(ap.InputError, match="format: got 'xml'"):
        ap.write_credit(tmp_path / "c.csv", small_credit(), format="xml")
    with pytest.raises(FileNotFoundError):
        ap.write_credit(tmp_path / "none" / "c.jsonl", small_credit())
