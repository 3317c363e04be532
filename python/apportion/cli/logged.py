"""Trees in the log of `apportion search`, with what their nodes stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apportion.cli.search import SETTINGS, model_folder
from apportion.errors import ApportionError
from apportion.evaluators import Step, StepEvaluator
from apportion.evaluators.problems import EXAMPLE, read_problems
from apportion.search import Search
from apportion.trees import Trees


class Bytes:
    """Stands for a server's model, whose tokens in a log are the bytes of the text."""

    def answer(self, requests: Any) -> Any:
        """Nothing is asked of it."""
        raise NotImplementedError


class Reader(Bytes):
    """Reads tokens as the model did that wrote them."""

    def __init__(self, model: str) -> None:
        """Loads the tokenizer alone."""
        from transformers import AutoTokenizer

        folder, how = model_folder(model)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **how)

    def step(self, tokens: Sequence[int]) -> Step:
        """Tokens of an answer as one step."""
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return Step(text, tuple(tokens))


def logged_trees(folder: Path) -> Trees | None:
    """The trees of a log of `apportion search`; `None` where the folder has another log.

    Without the problems' file or the model's tokenizer they have no texts.
    """
    if not (folder / SETTINGS).is_file():
        return None
    search = Search.read(folder)
    try:
        settings = json.loads((folder / SETTINGS).read_text("utf-8"))
        source = settings["source"]
        problems = read_problems(EXAMPLE if source == EXAMPLE.name else source)
        model = Reader(settings["model"]) if settings["evaluator"] == "transformers" else Bytes()
    except (ApportionError, ImportError, OSError, ValueError, KeyError, TypeError):
        return Trees.from_search(search)
    if len(problems) != search.num_roots:
        return Trees.from_search(search)
    names = [problem.name for problem in problems]
    steps = StepEvaluator(model, [problem.question for problem in problems], lambda *_: 0.0, names)
    steps.restore(search)
    return Trees.from_search(search, steps.texts(search), names)
