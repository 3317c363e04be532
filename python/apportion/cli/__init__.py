"""The command line: what it takes, and how it ends. Depends on everything, imported by nothing.

Exit codes: 0 done, 2 wrong input (one line on stderr), 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from apportion import _core
from apportion.errors import ApportionError, InternalError

DESCRIPTION = "Credit assignment for reinforcement learning of language models."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    args = _parser().parse_args(argv)
    try:
        _stop_on_terminate()
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("apportion: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InternalError:
        raise
    except (ApportionError, OSError, MemoryError) as error:
        if args.debug:
            raise
        print(f"apportion: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "out of memory"
    return " ".join(str(error).split())


def _stop_on_terminate() -> None:
    """Let SIGTERM unwind, so that temporary files are removed."""

    def stop(number: int, frame: object) -> None:
        sys.exit(128 + number)

    try:
        signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever runs us handles signals
        return


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser("apportion", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"apportion {_core.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_credit(commands, common)
    _add_methods(commands, common)
    _add_tree(commands, common)
    _add_search(commands, common)
    _add_demo(commands, common)
    return parser


Commands = argparse._SubParsersAction  # the type has no public name


def _add_credit(commands: Commands[argparse.ArgumentParser], common: _Parent) -> None:
    def run(args: argparse.Namespace) -> None:
        from apportion.cli.credit import run

        run(args)

    parser = commands.add_parser(
        "credit",
        parents=[common],
        help="give the rollouts in a file their credit",
        description="Give every turn and token of the rollouts in a file its credit. Files of "
        "any size are read group by group, unless the method's statistics span groups.",
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="JSON lines (.gz too) or Parquet; see docs/formats.md")
    add("--method", required=True, help='see "apportion methods"')
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the method")
    add("--like", metavar="TRAINER", help="take the options with which a trainer runs the method")
    add("-o", "--output", required=True, help="credit: .parquet, .jsonl or .jsonl.gz")
    add("--report", metavar="HTML", help="write a report as well")
    add(
        "--format",
        default="auto",
        choices=("auto", "apportion", "openai", "verl", "trl"),
        help="of FILE; by default told from its fields",
    )
    add("--group-key", metavar="FIELD", help="field of FILE that holds the group")
    add("--reward-key", metavar="FIELD", action="append", help="field that holds the outcome")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show progress on stderr (default: if that is a terminal)",
    )
    parser.set_defaults(run=run)


def _add_methods(commands: Commands[argparse.ArgumentParser], common: _Parent) -> None:
    def run(args: argparse.Namespace) -> None:
        from apportion.cli.methods import run

        run(args)

    parser = commands.add_parser(
        "methods", parents=[common], help="list the methods, or show one in full"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a method")
    parser.set_defaults(run=run)


def _add_tree(commands: Commands[argparse.ArgumentParser], common: _Parent) -> None:
    def run(args: argparse.Namespace) -> None:
        from apportion.cli.tree import run

        run(args)

    parser = commands.add_parser(
        "tree",
        parents=[common],
        help="show the search trees in a file, or convert them",
        description="Draw the trees in a file, or write them in another format: what -o ends "
        "in decides.",
    )
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        help="trees of ours, of AlphaMath, OpenR, ProRAG or PROPA, or a search's folder",
    )
    add(
        "-o",
        "--output",
        default="tree.html",
        help=".html, .svg, .dot, .json, .parquet, .arrow or .safetensors (%(default)s)",
    )
    add(
        "--format",
        default="auto",
        choices=("auto", "apportion", "alphamath", "openr", "prorag", "propa"),
        help="of FILE; by default told from its ending and fields",
    )
    add("--tree", type=int, metavar="N", help="one tree alone; of .svg and .dot the first")
    add("--max-nodes", type=int, default=400, metavar="N", help="of .svg and .dot (%(default)s)")
    add("--title", help="heading of the page")
    parser.set_defaults(run=run)


def _add_search(commands: Commands[argparse.ArgumentParser], common: _Parent) -> None:
    def run(args: argparse.Namespace) -> None:
        from apportion.cli.search import run

        run(args)

    parser = commands.add_parser(
        "search",
        parents=[common],
        help="search over a language model's answers, and label their steps",
        description="Search over the answers of a language model to problems that a program can "
        "check, and write every step that was tried with its Monte Carlo value.",
    )
    add = parser.add_argument
    add("file", metavar="FILE", nargs="?", help="problems, JSON lines; default: bundled sums")
    add("--evaluator", required=True, choices=("transformers", "openai"), help="what runs it")
    add("--model", required=True, help="a folder or .gguf file; with openai its name there")
    add("-o", "--output", required=True, help="steps: .parquet, .jsonl or .jsonl.gz")
    add("--report", metavar="HTML", help="write a picture of the trees as well")
    add("--log", metavar="DIR", help="keep a log there; go on from the one that is there")
    add("--url", help="of an OpenAI-compatible server, as in http://localhost:8000/v1")
    add(
        "--template",
        default="{prompt}",
        help="sent to it (%(default)s), {prompt} being the question",
    )
    add("--chat", action="store_true", help="use its /chat/completions, with its own template")
    add(
        "--log-probs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask it for log-probs, of which priors are made (by default)",
    )
    add("--device", default="cpu", help="with transformers (%(default)s)")
    add("--dtype", default="auto", help="with transformers, as in float32 (%(default)s)")
    add("--rule", default="puct", help="how steps are chosen (%(default)s)")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the search")
    add("--child-scores", action="store_true", help="evaluate steps as they are proposed")
    for name, default, text in (
        ("simulations", 16, "leaves to evaluate in each tree"),
        ("children", 4, "steps to propose at a leaf"),
        ("rollouts", 4, "answers to finish from a leaf"),
        ("max-steps", 12, "steps after which an answer is not continued"),
        ("max-step-tokens", 64, "tokens of a step"),
        ("max-rollout-tokens", 256, "tokens of a rollout"),
        ("batch-size", 64, "leaves evaluated together"),
    ):
        add(f"--{name}", type=_positive, default=default, metavar="N", help=f"{text} ({default})")
    add("--temperature", type=float, default=1.0, metavar="T", help="of all sampling (%(default)s)")
    add(
        "--retries", type=int, default=3, metavar="N", help="of a request to a server (%(default)s)"
    )
    add("--seed", type=int, default=0, metavar="N", help="of all randomness (%(default)s)")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show progress on stderr (default: if that is a terminal)",
    )
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return value


def _add_demo(commands: Commands[argparse.ArgumentParser], common: _Parent) -> None:
    def run(args: argparse.Namespace) -> None:
        from apportion.cli.demo import run

        run(args)

    parser = commands.add_parser(
        "demo",
        parents=[common],
        help="credit for real rollouts that come with the package",
        description="Give credit to 96 games that a small language model played, print some "
        "turns, and write a report.",
    )
    parser.add_argument("-o", "--output", default="report.html", help="the report (%(default)s)")
    parser.set_defaults(run=run)


_Parent = argparse.ArgumentParser
