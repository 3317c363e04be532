"""The command line through subprocesses: what it prints, its exit codes, flat memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apportion as ap
from apportion.cli import main
from apportion.cli.credit import parse_options

ROLLOUTS = Path(ap.__file__).parent / "data" / "rollouts.jsonl"


def run(*args: object, code: int = 0, **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "apportion", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )
    assert done.returncode == code, done.stderr
    return done


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


# credit


@pytest.mark.parametrize("method", ["gigpo", "gpg"])
def test_credit_of_the_bundled_rollouts(tmp_path: Path, method: str) -> None:
    """Streamed (gigpo) or read whole (gpg), the file holds what the library computes."""
    out = tmp_path / "c.jsonl"
    done = run("credit", ROLLOUTS, "--method", method, "-o", out)
    assert done.stdout == "" and f"{method}: " in done.stderr
    assert ("reading all of" in done.stderr) == (method == "gpg")
    rollouts = ap.read_rollouts(ROLLOUTS)
    credit, offsets = ap.credit(method, rollouts), rollouts.turns[0]
    expected = dict(
        zip(
            rollouts.trajectory_names or (),
            np.split(credit.turn_advantages, offsets[1:-1]),
            strict=True,
        )
    )
    got = {row["trajectory"]: row["turn_advantages"] for row in rows(out)}
    assert got.keys() == expected.keys()
    for name in got:
        assert got[name] == expected[name].tolist()


def test_options_presets_and_report(tmp_path: Path) -> None:
    out, report = tmp_path / "c.jsonl", tmp_path / "r.html"
    args = ("--method", "grpo", "--like", "trl", "--set", "eps=0.5", "--report", report)
    run("credit", ROLLOUTS, *args, "-o", out)
    meta = json.loads(out.read_text().splitlines()[0])["meta"]
    assert (meta["method"], meta["like"]) == ("grpo", "trl")
    assert meta["options"]["eps"] == 0.5 and meta["options"]["singleton"] == "zero"
    assert report.read_text().lstrip().lower().startswith("<!doctype html>")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.jsonl", "r.html"]


def test_parquet_out(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    run("credit", ROLLOUTS, "--method", "grpo", "-o", tmp_path / "c.parquet")
    table = pq.read_table(tmp_path / "c.parquet")
    assert table.num_rows == len(ap.read_rollouts(ROLLOUTS))
    assert json.loads(table.schema.metadata[b"apportion"])["method"] == "grpo"


def test_option_values() -> None:
    given = ["gamma=0.5", "scale=none", "flag=true", "weights=[1, 2]", "x=null", "y=a=b"]
    assert parse_options(given) == {
        "gamma": 0.5,
        "scale": "none",
        "flag": True,
        "weights": [1, 2],
        "x": None,
        "y": "a=b",
    }


def test_progress(tmp_path: Path) -> None:
    args = ("credit", ROLLOUTS, "--method", "grpo", "-o", tmp_path / "c.jsonl")
    quiet, shown = run(*args).stderr, run(*args, "--progress").stderr
    assert "%" not in quiet
    assert "checking 100%" in shown and "credit 100%" in shown


# errors


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{file}", "--method", "nope"], 'method: got "nope", expected one of'),
        (["{file}", "--method", "grpo", "--set", "epss=1"], "epss"),
        (["{file}", "--method", "grpo", "--set", "eps"], "--set: got 'eps', expected NAME=VALUE"),
        (["{file}", "--method", "grpo", "--set", "eps=-1"], "eps"),
        (["{file}", "--method", "grpo", "--like", "nope"], "nope"),
        (["none.jsonl", "--method", "grpo"], "none.jsonl: No such file or directory"),
        (["{bad}", "--method", "grpo"], "bad.jsonl:1: outcome: missing"),
        (["{bad}", "--method", "gpg"], "bad.jsonl:1: outcome: missing"),
        (["{file}", "--method", "a2tgpo", "-o", "{file}"], "is the input"),
        (["{file}", "--method", "grpo", "-o", "c.csv"], "c.csv: unknown ending"),
        (["{file}", "--method", "grpo", "-o", "none/c.jsonl"], "none/c.jsonl: no folder"),
        (["{file}", "--method", "grpo", "--report", "none/r.html"], "none/r.html: no folder"),
        (["{file}", "--method", "grpo", "--report", "."], ".: is a folder, expected a file"),
        (["{file}", "--method", "grpo", "--set", "eps=-.5"], "eps: got -0.5"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, args: list[str], message: str) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"group": 1, "turns": []}\n')
    named = {"file": str(ROLLOUTS), "bad": str(bad)}
    filled = [arg.format(**named) for arg in args]
    outputs = [] if "-o" in filled else ["-o", "c.jsonl"]
    done = run("credit", *filled, *outputs, code=2, cwd=tmp_path)
    said = [line for line in done.stderr.splitlines() if "reading all of" not in line]
    assert len(said) == 1 and said[0].startswith("apportion: ") and message in said[0]
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    args = ("credit", ROLLOUTS, "--method", "nope", "-o", tmp_path / "c.jsonl", "--debug")
    assert "Traceback" in run(*args, code=1).stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A long file keeps the command busy until it is interrupted."""
    big, out = tmp_path / "in.jsonl", tmp_path / "out"
    text = ROLLOUTS.read_text()
    with big.open("w") as file:
        file.writelines(text.replace('"group": "', f'"group": "{i}-') for i in range(60))
    out.mkdir()
    args = ["credit", big, "--method", "gigpo", "-o", out / "c.jsonl", "--progress"]
    child = subprocess.Popen(
        [sys.executable, "-m", "apportion", *map(str, args)], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    deadline = time.monotonic() + 60
    while not list(out.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)  # until the temporary file is there
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == code, said
    assert "Traceback" not in said and list(out.iterdir()) == []


# flat memory

_PEAK = """
import resource, sys
from apportion.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def peak_mib(*args: object) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *map(str, args)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="resource is POSIX")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """200 MB in groups of 8 that are spread over the whole file."""
    big, small = tmp_path / "big.jsonl", tmp_path / "small.jsonl"
    texts = ["move " + "north " * 800, "take " + "coin " * 900]

    def line(group: int, member: int) -> str:
        turns = [
            {"text": t, "observation": f"{group}-{k}", "tokens": [1, 2, 3], "reward": 0.1 * k}
            for k, t in enumerate(texts)
        ]
        return json.dumps({"group": f"g{group}", "outcome": member % 3, "turns": turns}) + "\n"

    def write(path: Path, groups: int) -> None:
        with path.open("w") as file:
            for member in range(8):
                file.writelines(line(group, member) for group in range(groups))

    write(big, 2750)
    write(small, 10)
    assert big.stat().st_size > 200e6
    out = tmp_path / "c.jsonl"
    base = peak_mib("credit", small, "--method", "gigpo", "-o", out)
    peak = peak_mib("credit", big, "--method", "gigpo", "-o", out)
    assert len(rows(out)) == 8 * 2750
    assert peak - base < 60, f"{peak} MiB, of which {base} are there for a small file"


# methods and demo


def test_methods_lists_all() -> None:
    text = run("methods").stdout
    starts = [line.split()[:2] for line in text.splitlines()]
    for name, card in ap.methods().items():
        assert [name, card.granularity] in starts and card.paper in text
    assert "gamma=0.95" in text
    assert max(map(len, text.splitlines())) <= 140


@pytest.mark.parametrize("name", list(ap.methods()))
def test_a_page_a_method(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", name]) == 0
    text, card = capsys.readouterr().out, ap.methods()[name]
    for part in (card.title, card.paper, card.certainty, "# Formula", "# Degenerate cases"):
        assert part in text
    assert all(option.name in text and option.doc.split("\n")[0] in text for option in card.options)


def test_unknown_method_page() -> None:
    assert "unknown method 'nope'" in run("methods", "nope", code=2).stderr


def test_a_reader_that_stops_early() -> None:
    command = f"{sys.executable} -m apportion methods | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("method") and done.stderr == ""


def test_demo(tmp_path: Path) -> None:
    text = run("demo", cwd=tmp_path).stdout
    rollouts = ap.read_rollouts(ROLLOUTS)
    assert text.startswith("gigpo: ")
    assert f"{len(rollouts)} trajectories, {rollouts.num_turns:,} turns" in text
    assert "credit  turn" in text and " ms" in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_version_and_usage() -> None:
    assert run("--version").stdout.strip() == f"apportion {ap.__version__}"
    assert "usage: apportion" in run(code=2).stderr
    assert "--method" in run("credit", "--help").stdout


def test_tree_draws_and_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees = ap.Trees(np.array([0, 2, 3]), np.array([-1, 0, -1]), {"value": np.array([1.0, 2, 3])})
    given = tmp_path / "trees.json"
    ap.write_trees(given, trees)
    for ending, start in ((".html", "<!DOCTYPE"), (".svg", "<?xml"), (".dot", "digraph")):
        output = tmp_path / f"out{ending}"
        assert main(["tree", str(given), "-o", str(output)]) == 0
        assert output.read_text("utf-8").startswith(start)
        told = "2 trees, 3 nodes" if ending == ".html" else "1 tree, 2 nodes"
        assert f"{told}, depth 1" in capsys.readouterr().err
    for ending in (".parquet", ".arrow", ".safetensors", ".json.gz"):
        output = tmp_path / f"out{ending}"
        assert main(["tree", str(given), "-o", str(output), "--tree", "1"]) == 0
        assert ap.read_trees(output).columns["value"].tolist() == [3.0]
    capsys.readouterr()
    for arguments, message in (
        ([str(given), "-o", "x.txt"], "x.txt: unknown ending"),
        ([str(given), "-o", str(given)], "is the input"),
        ([str(given), "--tree", "7"], "trees[0]: got 7"),
        ([str(tmp_path / "none.json")], "none.json: No such file"),
    ):
        assert main(["tree", *arguments]) == 2
        assert message in capsys.readouterr().err
