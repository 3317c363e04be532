"""Trees in the log of `apportion search`, with what their nodes stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from apportion.cli.search import SETTINGS, model_folder
from apportion.errors import ApportionError
from apportion.evaluators import Step
from apportion.evaluators.problems import EXAMPLE, read_problems
from apportion.evaluators.states import step_of_bytes
from apportion.evaluators.table import Table, node_texts, states_of
from apportion.search import Search
from apportion.trees import Trees


def step_reader(settings: Any) -> Callable[[Sequence[int]], Step]:
    """What makes a step of the tokens that a log has: they are the model's own, or the bytes
    of the texts that a server gave."""
    if settings["evaluator"] != "transformers":
        return step_of_bytes
    from transformers import AutoTokenizer

    folder, how = model_folder(settings["model"])
    tokenizer = AutoTokenizer.from_pretrained(folder, **how)

    def read(tokens: Sequence[int]) -> Step:
        return Step(tokenizer.decode(list(tokens), skip_special_tokens=True), tuple(tokens))

    return read


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
        read = step_reader(settings)
    except (ApportionError, ImportError, OSError, ValueError, KeyError, TypeError):
        return Trees.from_search(search)
    if len(problems) != search.num_roots:
        return Trees.from_search(search)
    table = Table(search)
    trees = range(search.num_roots)
    states = {place: state for t in trees for place, state in states_of(table, t, read).items()}
    texts = node_texts(states, table.nodes, [problem.question for problem in problems])
    return Trees.from_search(search, texts, [problem.name for problem in problems])
