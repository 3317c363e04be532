"""A method without documentation, source or proof fails here.

Proof is one of: reference cases that `test_golden.REPLAY` runs through the method,
or the sentence "No reference cases" in its documentation with the naive oracle that
checks it.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import apportion as ap
from apportion.methods import MethodCard
from test_golden import REPLAY, is_waiting

GOLDEN = Path(__file__).parent / "golden"
CARDS = ap.methods().values()
by_method = pytest.mark.parametrize("card", CARDS, ids=[card.name for card in CARDS])


@pytest.fixture(scope="module")
def replayed() -> set[str]:
    """Methods that some reference case runs."""
    seen: set[str] = set()
    credit = ap.credit

    def recorded(method: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(method)
        return credit(method, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ap, "credit", recorded)
        for folder, replay in REPLAY.items():
            for path in sorted((GOLDEN / folder).glob("case_*.json")):
                if not is_waiting(f"{folder}/{path.stem}"):
                    replay(json.loads(path.read_text()))
    return seen


@by_method
def test_documentation(card: MethodCard) -> None:
    for section in ("Formula", "Source", "Degenerate cases"):
        text = re.search(rf"^ *# {section}\n(.*?)(?=^ *# |\Z)", card.doc, re.M | re.S)
        assert text and len(text[1].split()) >= 2, f"{card.name}: no section {section}"
    assert card.title and card.family
    assert re.match(r"arXiv:\d{4}\.\d{4,5}|github\.com/\S+|verl compute_\w+", card.paper)
    assert card.certainty in ("code", "paper", "third-party", "reconstructed")
    for part in (*card.options, *card.columns):
        assert len(part.doc.split()) >= 2, f"{card.name}: nothing is said of {part.name}"
    for option in card.options:
        assert option.expected, f"{card.name}: {option.name} does not say what it accepts"


@by_method
def test_presets_name_options(card: MethodCard) -> None:
    options = {option.name for option in card.options}
    for trainer, preset in card.presets.items():
        assert preset.keys() <= options, f"{card.name}: preset {trainer}"


@by_method
def test_proof(card: MethodCard, replayed: set[str]) -> None:
    stated = re.search(r"No reference cases[^`]*`(\w+)\.(\w+)`", card.doc)
    if card.name in replayed:
        assert stated is None, f"{card.name} has reference cases; its documentation denies it"
        return
    assert stated, (
        f"{card.name}: put reference cases under tests/golden/ and into REPLAY, or write "
        '"No reference cases; checked against the naive oracle `module.function`" in its Source'
    )
    oracle = importlib.import_module(f"oracles.{stated[1]}")
    assert callable(getattr(oracle, stated[2])), f"{card.name}: no such oracle"
