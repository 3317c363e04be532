"""`apportion search` with a tiny model from a folder, and behind a server on localhost."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("httpx")

import apportion as ap
from apportion.cli import main
from completions_server import Server
from tiny_model import model, tokenizer

LIMITS = ("--children", "2", "--rollouts", "2", "--max-step-tokens", "8")
MORE = ("--max-rollout-tokens", "12", "--simulations", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model(max_position_embeddings=2048).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def problems(path: Path) -> Path:
    path.write_text('{"name": "a", "question": "1 + 1", "answer": "2"}\n')
    return path


def lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    first, *rows = (json.loads(line) for line in path.read_text().splitlines())
    return first["meta"], rows


def test_labels_of_the_bundled_problems(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice with the same result, in both formats; with a picture and progress."""
    command = ["search", "--evaluator", "transformers", "--model", str(folder), *LIMITS, *MORE]
    command += ["--report", str(tmp_path / "r.html"), "--progress"]
    out = tmp_path / "s.jsonl"
    assert main([*command, "-o", str(out)]) == 0
    told = capsys.readouterr().err
    labelled = sum(row["depth"] > 0 for row in lines(out)[1])
    assert "search 100%" in told
    assert f"8 problems, {labelled} labelled steps: " in told
    meta, rows = lines(out)
    assert (meta["evaluator"], meta["simulations"]) == ("transformers", 3)
    # Visits of an end that was seen before evaluate nothing.
    assert 8 < len(rows) <= 8 * 4 and (tmp_path / "r.html").stat().st_size > 1000
    for row in rows:
        assert row["soft"] == sum(row["scores"]) / len(row["scores"]) == row["value"]
        assert row["hard"] == (row["soft"] > 0)
    pq = pytest.importorskip("pyarrow.parquet")
    table = tmp_path / "s.parquet"
    assert main([*command, "-o", str(table)]) == 0
    assert pq.read_table(table).to_pylist() == rows
    assert json.loads(pq.read_schema(table).metadata[b"apportion"]) == meta


def test_settings_of_the_search_and_names_in_the_picture(folder: Path, tmp_path: Path) -> None:
    """Wrong answers are negative ones, so that the root's own two are the last."""
    out, page = tmp_path / "s.jsonl", tmp_path / "r.html"
    command = ["search", str(problems(tmp_path / "p.jsonl")), "--evaluator", "transformers"]
    command += ["--model", str(folder), *LIMITS, *MORE, "-o", str(out), "--report", str(page)]
    assert main([*command, "--set", "stop_negatives=2", "--set", "max_nodes=50"]) == 0
    (root,) = lines(out)[1]
    assert (root["visits"], root["scores"]) == (1, [0.0, 0.0])
    drawn = page.read_text("utf-8")
    assert '"names":["a"]' in drawn and "p.jsonl" in drawn and '"rule":"puct"' in drawn


def test_a_server_instead(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl.gz"
    file = problems(tmp_path / "p.jsonl")
    with Server() as server:
        common = ["search", str(file), "--evaluator", "openai", "--model", "tiny"]
        common += ["--url", server.url, *LIMITS, *MORE, "-o", str(out)]
        assert main([*common, "--template", "<user>{prompt}</><assistant>"]) == 0
        assert all(body["prompt"].startswith("<user>1 + 1\n") for body in server.bodies)
        rows = gzip.decompress(out.read_bytes()).splitlines()[1:]
        assert main([*common, "--chat"]) == 0
        assert "messages" in server.bodies[-1]
        assert gzip.decompress(out.read_bytes()).splitlines()[1:] == rows


def test_a_log_is_gone_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that fails in the middle, then the same command with one that works."""
    file, log = problems(tmp_path / "p.jsonl"), tmp_path / "log"
    with Server() as server:
        common = ["search", str(file), "--evaluator", "openai", "--model", "tiny", *LIMITS]
        common += ["--url", server.url, "--max-rollout-tokens", "12", "--simulations", "6"]
        common += ["--batch-size", "1", "--retries", "0"]
        assert main([*common, "-o", str(tmp_path / "whole.jsonl")]) == 0
        server.faults[:] = [*[None] * 9, *[400] * 400]
        command = [*common, "--log", str(log)]
        assert main([*command, "-o", str(tmp_path / "part.jsonl")]) == 2
        begun, server.faults[:] = len(server.bodies), []
        assert main([*command, "-o", str(tmp_path / "s.jsonl")]) == 0
        assert f"going on from {log}" in capsys.readouterr().err
        assert len(server.bodies) - begun < begun
        assert len(lines(tmp_path / "s.jsonl")[1]) > len(lines(tmp_path / "part.jsonl")[1])
        assert main([*command, "--seed", "1", "-o", str(tmp_path / "s.jsonl")]) == 2
        assert "was written with seed 0, got 1" in capsys.readouterr().err


def test_a_log_is_drawn_with_its_texts(folder: Path, tmp_path: Path) -> None:
    """The tokens of either evaluator are read; without the problems there are none."""
    file = problems(tmp_path / "p.jsonl")
    with Server() as server:
        for name, given in (
            ("openai", ["--model", "tiny", "--url", server.url]),
            ("transformers", ["--model", str(folder)]),
        ):
            log, out = tmp_path / name, tmp_path / f"{name}.jsonl"
            command = ["search", str(file), "--evaluator", name, *given, *LIMITS, *MORE]
            assert main([*command, "--log", str(log), "-o", str(out)]) == 0
            drawn = tmp_path / f"{name}.json"
            assert main(["tree", str(log), "-o", str(drawn)]) == 0
            trees = ap.read_trees(drawn)
            assert trees.names == ["a"] and trees.texts is not None and trees.texts[0] == "1 + 1"
            for row in lines(out)[1]:
                assert trees.texts[row["node"]] == (row["text"] or "1 + 1")
    file.unlink()
    assert main(["tree", str(log), "-o", str(drawn)]) == 0
    assert ap.read_trees(drawn).texts is None


def test_a_log_that_was_killed_as_it_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever of settings and log is there, the command goes on or says what is wrong."""
    file, log, out = problems(tmp_path / "p.jsonl"), tmp_path / "log", tmp_path / "s.jsonl"
    with Server() as server:
        command = ["search", str(file), "--evaluator", "openai", "--model", "tiny", *LIMITS, *MORE]
        command += ["--url", server.url, "-o", str(out), "--log", str(log)]
        assert main(command) == 0
        whole, settings = out.read_text(), log / "settings.json"
        events = (log / "events.log").read_bytes()
        for left in (None, events[:7]):  # killed before the log, or in its first record
            (log / "events.log").unlink()
            if left is not None:
                (log / "events.log").write_bytes(left)
            capsys.readouterr()
            assert main(command) == 0
            assert out.read_text() == whole and "going on" not in capsys.readouterr().err
        for torn, words in (
            (settings.read_bytes()[:30], "settings.json: expected settings in JSON"),
            (b"[1]", "settings.json: expected settings in JSON: got list"),
            (b"\xff", "settings.json: expected settings in JSON"),
            (None, "has a log but no settings.json"),
        ):
            settings.unlink()
            if torn is not None:
                settings.write_bytes(torn)
            assert main(command) == 2
            assert words in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--child-scores", "--rule", "beam")], ids=["puct", "beam"])
def test_killed_and_resumed_it_writes_the_file_of_an_unbroken_run(
    more: tuple[str, ...], tmp_path: Path
) -> None:
    """Byte for byte, log-probs and scores among them."""
    file, log = problems(tmp_path / "p.jsonl"), tmp_path / "log"
    with Server() as server:
        command = ["search", str(file), "--evaluator", "openai", "--model", "tiny", *LIMITS]
        command += ["--url", server.url, "--max-rollout-tokens", "12", "--simulations", "6"]
        command += ["--batch-size", "1", "--retries", "0", *more]
        assert main([*command, "-o", str(tmp_path / "whole.jsonl")]) == 0
        whole, out = len(server.bodies), tmp_path / "s.jsonl"
        command += ["--log", str(log), "-o", str(out)]
        server.bodies.clear()
        running = subprocess.Popen([sys.executable, "-m", "apportion", *command])
        while len(server.bodies) < 2 * whole // 3 and running.poll() is None:
            time.sleep(0.002)
        running.kill()
        assert running.wait() == -signal.SIGKILL and not out.exists()
        server.bodies.clear()
        assert main(command) == 0
        assert 0 < len(server.bodies) < whole, "what was answered is not asked again"
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    rows = lines(out)[1]
    assert all(row["log_prob"] < 0 for row in rows if row["text"])
    assert all(row["scores"] for row in rows)


def test_a_server_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = problems(tmp_path / "p.jsonl")
    out = tmp_path / "s.jsonl"
    url = "http://127.0.0.1:9/v1"
    command = ["search", str(file), "--evaluator", "openai", "--model", "x", "--url", url]
    assert main([*command, "--retries", "0", "-o", str(out)]) == 2
    assert f"{url}/completions: ConnectError" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "/nowhere"], "--model: no folder /nowhere"),
        (["--model", "{folder}", "-o", "{tmp}/x.csv"], "x.csv: unknown ending"),
        (["--model", "{folder}", "-o", "{tmp}/no/x.jsonl"], "no folder"),
        (["--model", "{folder}", "-o", "{tmp}/p.jsonl"], "is the input"),
        (["--model", "{folder}", "--url", "http://x"], "--url: is for --evaluator openai"),
        (["--model", "{folder}", "--evaluator", "openai"], "--url: got none"),
        (["--model", "{folder}", "--rule", "best"], "best"),
        (["--model", "{folder}", "--set", "c_puct=-1"], "c_puct"),
        (["--model", "{folder}", "--set", "rule=uct"], "--set: got rule, which is given by --rule"),
        (["--model", "{folder}", "--set", "num_roots=2"], "which is given by FILE"),
    ],
)
def test_wrong_arguments_are_one_line(
    args: list[str], words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = problems(tmp_path / "p.jsonl")
    given = [arg.format(folder=folder, tmp=tmp_path) for arg in args]
    defaults = ["--evaluator", "transformers", "-o", str(tmp_path / "s.jsonl")]
    assert main(["search", str(file), *defaults, *given]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "s.jsonl").exists()
