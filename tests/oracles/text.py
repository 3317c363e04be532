"""Text measures: the difflib ratio, edit distance, answer F1. Standard library alone."""

import difflib
import re
import string
from collections.abc import Hashable, Sequence

Token = Hashable


def similarity_ratio(new: str, representative: str) -> float:
    """`2 M / (|a| + |b|)` by Python's own difflib, with its autojunk heuristic; not symmetric."""
    return difflib.SequenceMatcher(None, new, representative).ratio()


def edit_distance(a: Sequence[Token], b: Sequence[Token]) -> int:
    """Levenshtein distance between token lists, by the full table."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) + 1):
        for j in range(len(b) + 1):
            if i == 0 or j == 0:
                table[i][j] = i + j
            else:
                table[i][j] = min(
                    table[i - 1][j] + 1,
                    table[i][j - 1] + 1,
                    table[i - 1][j - 1] + (a[i - 1] != b[j - 1]),
                )
    return table[len(a)][len(b)]


def normalised_edit_distance(a: Sequence[Token], b: Sequence[Token]) -> float:
    """Edit distance over the longer length; 0 for two empty lists."""
    return edit_distance(a, b) / max(len(a), len(b), 1)


def tagged_answer(completion: str) -> str | None:
    """The text of the first `<answer>...</answer>` of a turn, or None."""
    found = re.search(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    return found.group(1) if found else None


def answer_f1(prediction: str, gold: str) -> float:
    """F1 of token *sets* after lower-casing and turning ASCII punctuation to blanks; 0 where
    either is empty."""
    predicted, wanted = _answer_tokens(prediction), _answer_tokens(gold)
    common = len(predicted & wanted)
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _answer_tokens(text: str) -> set[str]:
    blanks = {ord(mark): " " for mark in string.punctuation}
    return set(text.lower().translate(blanks).split())
