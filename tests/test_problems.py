"""Problems, the answers that texts give to them, and their verifiers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apportion.errors import ExtraMissingError, FileFormatError
from apportion.evaluators.problems import (
    EXAMPLE,
    Problem,
    final_answer,
    read_problems,
    verifier,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So 4 + 3 = 7.\nAnswer: 7", "7"),
        ("Answer: 6\nNo.\nAnswer: 7.\n", "7"),
        ("The answer is 7.", "7"),
        ("the **answer**: no; Answer: **7**", "7"),
        (r"Answer: 5, that is \boxed{7}", "7"),
        ("<answer>\n7\n</answer> Answer: 8", "7"),
        ("3 + 4\n#### 1,007", "1,007"),
        ("I think seven", None),
        ("So 58 + 26 = 84, I think.", "84"),
        ("It is 1,000.5 or -3.", "-3"),
        ("x1 and v2.0", None),
        ("", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_equal_answers_score_1() -> None:
    problems = [Problem("a", "?", "7"), Problem("b", "?", "New York"), Problem("c", "?", "1,000")]
    verify = verifier(problems)
    for i, text, score in (
        (0, "Answer: 7.0", 1),
        (0, "Answer: 07", 1),
        (0, "Answer: seven", 0),
        (0, "7 or 8", 0),
        (1, "Answer:  new   york.", 1),
        (1, "Answer: York", 0),
        (2, "Answer: $1000", 1),
    ):
        assert verify(i, text) == score, text


def test_the_bundled_problems_are_read_and_answered() -> None:
    problems = read_problems(EXAMPLE)
    verify = verifier(problems)
    assert len(problems) == 8 and len({p.name for p in problems}) == 8
    assert all(verify(i, f"Answer: {p.answer}") == 1 for i, p in enumerate(problems))
    assert all(verify(i, "Answer: -3") == 0 for i in range(8))


def test_problems_of_reasoning_gym_have_their_own_verifier(tmp_path: Path) -> None:
    gym = pytest.importorskip("reasoning_gym")
    entries = [
        entry
        for name in ("chain_sum", "countdown", "letter_counting")
        for entry in gym.create_dataset(name, size=3, seed=1)
    ]
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    problems = read_problems(file)
    verify = verifier(problems)
    for i, entry in enumerate(entries):
        score = gym.get_score_answer_fn(entry["metadata"]["source_dataset"])
        for text, answer in (
            (f"Answer: {entry['answer']}", entry["answer"]),
            ("Answer: nothing", "nothing"),
            ("no idea", None),
        ):
            assert verify(i, text) == (score(answer, entry) == 1)
        assert verify(i, f"Answer: {entry['answer']}") == 1
    bad = Problem("x", "?", "1", {"metadata": {"source_dataset": "no such"}})
    with pytest.raises(FileFormatError, match="'no such'"):
        verifier([bad])


def test_reasoning_gym_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    problem = Problem("x", "?", "1", {"metadata": {"source_dataset": "chain_sum"}})
    with pytest.raises(ExtraMissingError, match=r"apportion\[search\]"):
        verifier([problem])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "empty"),
        ("[1]\n", ":1: line: got list"),
        ('{"question": "a", "answer": "b"}\n{"question": "a"}\n', ":2: answer: got 'None'"),
        ('{"question": " ", "answer": "b"}\n', ":1: question: got ' '"),
        ('{"question": "a", "answer": "b", "name": 3}\n', ":1: name: got 3"),
        ('{"question": "a", "answer": "b", "name": "x"}\n' * 2, ":2: name: got 'x' again"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, lines: str, words: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(lines)
    with pytest.raises(FileFormatError) as error:
        read_problems(file)
    assert words in str(error.value)
