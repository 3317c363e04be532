"""`apportion search`: problems in, the steps of a language model with their labels out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from apportion import _core
from apportion.cli.credit import parse_options
from apportion.cli.progress import Progress
from apportion.cli.words import counted
from apportion.errors import EvaluatorError, ExtraMissingError, FileFormatError, OptionError
from apportion.evaluators import Model, StepEvaluator
from apportion.evaluators.problems import EXAMPLE, INSTRUCTION, read_problems, verifier
from apportion.evaluators.table import Table, step_rows
from apportion.io.step_labels import check_ending, write_steps
from apportion.report.page import replace_file
from apportion.search import Search
from apportion.search.log import begun
from apportion.trees import Trees

SETTINGS = "settings.json"
"""What the command was given, beside a log."""


ELSEWHERE = {
    "num_roots": "FILE, a tree a problem",
    "num_simulations": "--simulations",
    "rule": "--rule",
    "seed": "--seed",
}
"""Settings of a search that have an argument of their own."""

DEFAULTS = {"max_nodes": 2**32 - 2, "stop_threshold": 0.5}


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    started = time.perf_counter()
    options = parse_options(args.set)
    _check_output(args)
    problems = read_problems(args.file or EXAMPLE)
    verify = verifier(problems)
    meta, folder = _meta(args, options), Path(args.log) if args.log else None
    goes_on = folder is not None and begun(folder)
    search = _resumed(folder, meta) if folder and goes_on else _new(args, options, len(problems))
    steps = StepEvaluator(
        MODELS[args.evaluator](args),
        [problem.question + INSTRUCTION for problem in problems],
        verify,
        names=[problem.name for problem in problems],
        children=args.children,
        rollouts=args.rollouts,
        max_steps=args.max_steps,
        seed=args.seed,
        child_scores=args.child_scores,
    )
    if goes_on:
        steps.restore(search)
        _say(f"going on from {folder}")
    elif folder is not None:
        # First the settings, whole: a log without them could not be gone on with.
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / SETTINGS, json.dumps(meta, indent=1).encode())
        search.log_to(folder)
    failed, lost = 0, None
    with Progress(args.progress) as progress:
        tick = progress.stage("search")
        total = args.simulations * len(problems)
        try:
            failed = steps.run(
                search,
                batch_size=args.batch_size,
                on_error="fail",
                tick=lambda done: tick(done, total),
            )
        except EvaluatorError as error:
            lost = error
        finally:
            search.close()
    table = Table(search)
    rows = [
        {"name": problem.name, "question": problem.question, "tree": tree, **row}
        for tree, problem in enumerate(problems)
        for row in step_rows(steps.states, table, tree)
    ]
    if rows:
        write_steps(args.output, rows, meta)
        if args.report:
            _draw(args, search, steps, [problem.name for problem in problems])
        _say(summary(rows, len(problems), failed))
        _say(f"wrote {args.output} in {time.perf_counter() - started:.1f} s")
    if lost is not None:
        raise lost


def _resumed(folder: Path, meta: dict[str, Any]) -> Search:
    """The search whose log is there, made with the same settings."""
    path = folder / SETTINGS
    try:
        kept = json.loads(path.read_text("utf-8"))
        if not isinstance(kept, dict):
            raise ValueError(f"got {type(kept).__name__}, expected an object")
    except FileNotFoundError as error:
        raise OptionError(
            f"--log: {folder} has a log but no {SETTINGS}, expected a log of this command; "
            "Search.resume goes on with others"
        ) from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise FileFormatError(f"{path}: expected settings in JSON: {error}") from error
    for name, value in meta.items():
        if kept.get(name) != value:
            got = f"with {name} {kept.get(name)!r}, got {value!r}"
            raise OptionError(f"--log: {folder} was written {got}")
    return Search.resume(folder)


def _new(args: argparse.Namespace, options: dict[str, Any], trees: int) -> Search:
    """A new search. Nodes are bounded by its simulations alone, and right answers are worth 1."""
    for name, instead in ELSEWHERE.items():
        if name in options:
            raise OptionError(f"--set: got {name}, which is given by {instead}")
    given = {"num_simulations": args.simulations, "seed": args.seed, "rule": args.rule}
    return Search(**{"num_roots": trees, **given, **DEFAULTS, **options})


def _draw(args: argparse.Namespace, search: Search, steps: StepEvaluator, names: list[str]) -> None:
    """Write the picture, a tree a problem."""
    told = ("evaluator", "model", "rule", "simulations", "children", "rollouts", "seed")
    trees = Trees.from_search(search, steps.texts(search), names)
    trees = replace(trees, meta={name: getattr(args, name) for name in told})
    trees.to_html(args.report, title=Path(args.file or EXAMPLE).name)


def summary(rows: list[dict[str, Any]], problems: int, failed: int) -> str:
    """What was found, in a line."""
    labels = [row["soft"] for row in rows if row["soft"] is not None and row["depth"] > 0]
    never, always = labels.count(0), labels.count(1)
    mixed = len(labels) - never - always
    text = (
        f"{counted(problems, 'problem')}, {counted(len(labels), 'labelled step')}: "
        f"{never:,} never led to a right answer, {mixed:,} sometimes, {always:,} always"
    )
    return f"{text}; {counted(failed, 'evaluation')} failed" if failed else text


def _check_output(args: argparse.Namespace) -> None:
    """Find what could not be written before a long search."""
    check_ending(args.output)
    for output in filter(None, (args.output, args.report)):
        path = Path(output).resolve()
        if args.file and path == Path(args.file).resolve():
            raise OptionError(f"{output}: is the input, expected another file for the output")
        if path.is_dir():
            raise OptionError(f"{output}: is a folder, expected a file")
        if not path.parent.is_dir():
            raise OptionError(f"{output}: no folder {path.parent}, expected one that is there")


def _transformers(args: argparse.Namespace) -> Model:
    if args.url:
        raise OptionError("--url: is for --evaluator openai")
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from apportion.integrations.transformers import TransformersEvaluator
    except ImportError as error:
        raise ExtraMissingError(
            f'--evaluator transformers: {error}; pip install "apportion[search]"'
        ) from error
    folder, how = model_folder(args.model)
    tokenizer = AutoTokenizer.from_pretrained(folder, **how)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=args.dtype, **how)
    return TransformersEvaluator(
        model.to(args.device),
        tokenizer,
        temperature=args.temperature,
        max_step_tokens=args.max_step_tokens,
        max_rollout_tokens=args.max_rollout_tokens,
    )


def model_folder(given: str) -> tuple[Path, dict[str, Any]]:
    """Where a model and its tokenizer lie, and how transformers is to read them."""
    path = Path(given)
    packed = path.suffix == ".gguf"
    folder = path.parent if packed else path
    if not folder.is_dir() or (packed and not path.is_file()):
        raise OptionError(f"--model: no folder {path}, expected one with a model, or a .gguf file")
    return folder, {"local_files_only": True, **({"gguf_file": path.name} if packed else {})}


def _openai(args: argparse.Namespace) -> Model:
    if not args.url:
        raise OptionError("--url: got none, expected the server's, as in http://localhost:8000/v1")
    from apportion.integrations.openai import OpenAIEvaluator

    return OpenAIEvaluator(
        args.url,
        args.model,
        template=args.template,
        chat=args.chat,
        log_probs=args.log_probs,
        retries=args.retries,
        temperature=args.temperature,
        max_step_tokens=args.max_step_tokens,
        max_rollout_tokens=args.max_rollout_tokens,
    )


MODELS = {"transformers": _transformers, "openai": _openai}


def _meta(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """Everything that the steps depend on."""
    kept = ("evaluator", "model", "url", "rule", "simulations", "children", "rollouts", "max_steps")
    sampled = (
        "template",
        "chat",
        "child_scores",
        "temperature",
        "max_step_tokens",
        "max_rollout_tokens",
        "batch_size",
        "seed",
    )
    return {
        "apportion": _core.__version__,
        "source": str(args.file or EXAMPLE.name),
        **{name: getattr(args, name) for name in (*kept, *sampled)},
        "options": options,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr)
