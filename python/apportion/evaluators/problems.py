"""Problems with answers that a program can check, as a search over answers needs them.

Depends on `io.lines` and `errors`; reasoning-gym is imported for its own problems alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from apportion.errors import ExtraMissingError, FileFormatError
from apportion.io.lines import Place, numbered, open_lines, parse

INSTRUCTION = "\nThink step by step, one step a line. End with a line `Answer: ` and the answer."

EXAMPLE = Path(__file__).parent.parent / "data" / "problems.jsonl"
"""Sums that a small model gets right now and then; they come with the package."""

_ANSWERS = (
    re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE),
    re.compile(r"\\boxed\{([^{}]*)\}"),
    re.compile(r"(?:####|\banswer\s*(?:is)?\s*:|\banswer\s+is\b)[ \t]*([^\n]+)", re.IGNORECASE),
)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True)
class Problem:
    """A question, what answers it, and the whole entry it came with."""

    name: str
    question: str
    answer: str
    entry: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> str | None:
        """The generator of reasoning-gym that made it."""
        meta = self.entry.get("metadata")
        source = meta.get("source_dataset") if isinstance(meta, dict) else None
        return source if isinstance(source, str) else None


def read_problems(path: str | PathLike[str]) -> list[Problem]:
    """Problems of a file of JSON lines: `question`, `answer`, and anything else.

    `name` is its name, by default its number in the file. Entries of reasoning-gym are
    such lines as they are.

    Raises:
        FileFormatError: names the line and the field.
    """
    file = Path(fspath(path))
    found: dict[str, Problem] = {}
    with open_lines(file) as lines:
        for place, _, line in numbered(lines, str(file)):
            problem = _problem(parse(line, place), place, str(len(found)))
            if problem.name in found:
                place.fail("name", f"got {problem.name!r} again, expected each name once")
            found[problem.name] = problem
    if not found:
        raise FileFormatError(f"{file}: empty, expected at least one problem")
    return list(found.values())


def _problem(row: Any, place: Place, name: str) -> Problem:
    if not isinstance(row, dict):
        place.fail("line", f"got {type(row).__name__}, expected an object")
    for key in ("question", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            place.fail(key, f"got {str(row.get(key))[:40]!r}, expected a text")
    name = row.get("name", name)
    if not isinstance(name, str):
        place.fail("name", f"got {name!r}, expected a text")
    return Problem(name, row["question"], row["answer"], row)


def final_answer(text: str) -> str | None:
    """What a text gives as its answer, `None` if nothing.

    The last `<answer>...</answer>`, else the last `\\boxed{...}`, else what follows the
    last `Answer:`, `answer is` or `####` on its line, without a full stop at its end; else
    the last number.
    """
    for pattern in _ANSWERS:
        found = pattern.findall(text)
        if found:
            return str(found[-1]).strip().strip("*`").removesuffix(".").strip()
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def verifier(problems: Sequence[Problem]) -> Callable[[int, str], float]:
    """`verify(i, text)`: 1 for a right answer to problem `i` in a text, 0 for any other.

    A problem that reasoning-gym made is for the verifier of its generator, and right is
    its full score: what some give for the form of an answer would make wrong steps look
    right. In another problem the answers have to be equal, as numbers if both are.

    Raises:
        ExtraMissingError: reasoning-gym is needed and not installed.
        FileFormatError: a generator that reasoning-gym does not have.
    """
    scorers = {source: _scorer(source) for source in {p.source for p in problems} if source}

    def verify(i: int, text: str) -> float:
        problem, answer = problems[i], final_answer(text)
        if problem.source is not None:
            return float(scorers[problem.source](answer, dict(problem.entry)) >= 1)
        return float(answer is not None and _same(answer, problem.answer))

    return verify


def _scorer(source: str) -> Callable[[str | None, dict[str, Any]], float]:
    try:
        from reasoning_gym import get_score_answer_fn
    except ImportError as error:
        raise ExtraMissingError(
            f"problems of reasoning-gym ({source}) need its verifier: "
            'pip install "apportion[search]"'
        ) from error
    try:
        scorer: Callable[[str | None, dict[str, Any]], float] = get_score_answer_fn(source)
    except ValueError as error:
        raise FileFormatError(f"metadata.source_dataset: got {source!r}: {error}") from error
    return scorer


def _same(answer: str, expected: str) -> bool:
    numbers = [_number(answer), _number(expected)]
    if None not in numbers:
        return numbers[0] == numbers[1]
    return " ".join(answer.split()).casefold() == " ".join(expected.split()).casefold()


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").strip().strip("$%"))
    except ValueError:
        return None
