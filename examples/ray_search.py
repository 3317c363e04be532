"""Searches over many problems, spread by Ray; the same credit as in one process.

Trees know nothing of each other. Problems are cut into shards; a shard is one plain Ray task,
a function of its problems and settings alone. When the worker that runs it dies, Ray runs it
again, and since every random number is keyed by seed, problem and path, the second run is
equal to the first. So results depend on the shards, never on workers or their deaths.

    pip install ray "apportion[search]"
    python examples/ray_search.py --workers 0 --out one.jsonl      # one process, without Ray
    python examples/ray_search.py --workers 2 --out two.jsonl      # the same lines
    python examples/ray_search.py --evaluator transformers --model DIR --workers 2
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import apportion as ap
from apportion.evaluators import Answer, Model, Request, Step, StepEvaluator
from apportion.evaluators.problems import (
    EXAMPLE,
    INSTRUCTION,
    Problem,
    read_problems,
    verifier,
)
from apportion.io.step_labels import write_steps

CREDIT = "tree_ps_rag"

Tree = list[dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """Everything that a shard's result depends on, beside its problems."""

    evaluator: str = "fake"
    model: str = ""
    simulations: int = 24
    children: int = 3
    rollouts: int = 4
    delay: float = 0.0
    seed: int = 0


class Guesser:
    """A fake model: three steps of guessing, the better the answer, the higher its first digit."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        time.sleep(self.delay)
        return [Answer(tuple(self.write(request))) for request in requests]

    def write(self, request: Request) -> Iterator[Step]:
        for seed in request.seeds:
            digits = random.Random(seed)
            count = 3 - len(request.steps)
            if request.kind == "expand":
                count = 1
            texts = [f"guess {digits.randrange(10)}\n" for _ in range(count)]
            done = len(request.steps) + count == 3
            log_probs = tuple(-1.0 - digits.random() for _ in texts)
            yield Step("".join(texts), log_probs=log_probs, done=done)


def lucky(tree: int, text: str) -> float:
    """Whether the guesses are high on the whole."""
    return float(sum(int(word) for word in text.split() if word.isdigit()) > 15)


@functools.cache
def model_of(settings: Settings) -> Model:
    """The model, once a process: a worker keeps it from shard to shard."""
    if settings.evaluator == "fake":
        return Guesser(settings.delay)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from apportion.integrations.transformers import TransformersEvaluator

    torch.set_num_threads(1)  # workers are parallel already
    path = Path(settings.model)
    how = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = path.parent if how else path
    return TransformersEvaluator(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **how),
        AutoTokenizer.from_pretrained(folder, **how),
        temperature=0.7,
        max_step_tokens=24,
        max_rollout_tokens=48,
    )


def search_shard(problems: Sequence[Problem], settings: Settings) -> list[Tree]:
    """Search the problems of a shard; the steps of each tree."""
    evaluator = StepEvaluator(
        model_of(settings),
        [problem.question + INSTRUCTION for problem in problems],
        lucky if settings.evaluator == "fake" else verifier(problems),
        names=[problem.name for problem in problems],
        children=settings.children,
        rollouts=settings.rollouts,
        seed=settings.seed,
    )
    nodes = 1 + settings.children * (settings.simulations + 1)
    search = ap.Search(
        len(problems), nodes, num_simulations=settings.simulations, seed=settings.seed
    )
    evaluator.run(search)
    return [evaluator.steps(search, tree) for tree in range(len(problems))]


def run_here(shards: Sequence[Sequence[Problem]], settings: Settings) -> list[list[Tree]]:
    """One shard after the other."""
    return [search_shard(shard, settings) for shard in shards]


def run_on_ray(
    shards: Sequence[Sequence[Problem]], settings: Settings, workers: int
) -> list[list[Tree]]:
    """A task a shard; results in the order of shards."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    # -1: again for every worker that dies. An exception of the search itself is not retried.
    task = ray.remote(max_retries=-1, num_cpus=1)(search_shard)
    waiting = [task.remote(shard, settings) for shard in shards]
    found = dict.fromkeys(waiting)
    while waiting:
        (done, *_), waiting = ray.wait(waiting)
        found[done] = ray.get(done)
        print(f"{len(shards) - len(waiting)} of {len(shards)} shards", file=sys.stderr, flush=True)
    ray.shutdown()
    return [trees for trees in found.values() if trees is not None]


def with_credit(trees: Sequence[Tree]) -> list[dict[str, Any]]:
    """All steps, each with its credit: one call for all trees."""
    rows = [{"tree": t, **row} for t, tree in enumerate(trees) for row in tree]
    place = {(row["tree"], row["node"]): i for i, row in enumerate(rows)}
    parents = [place.get((row["tree"], row["parent"]), -1) for row in rows]
    outcomes = np.array([row["value"] for row in rows])
    rollouts = ap.Rollouts.from_tree(parents, outcome_rewards=outcomes)
    credit = ap.credit(CREDIT, rollouts).turn_advantages
    return [{**row, "credit": float(c)} for row, c in zip(rows, credit, strict=True)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Search over many problems, spread by Ray.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--problems", type=Path, default=EXAMPLE, help="JSON lines: question, answer, name")
    add("--evaluator", choices=("fake", "transformers"), default="fake", help="what writes steps")
    add("--model", default="", help="folder or .gguf file, for transformers")
    add("--simulations", type=int, default=24, help="leaves to evaluate in each tree")
    add("--children", type=int, default=3, help="steps to propose at a leaf")
    add("--rollouts", type=int, default=4, help="answers to finish from a leaf")
    add("--delay", type=float, default=0.0, help="seconds that the fake takes for a batch")
    add("--seed", type=int, default=0, help="of all randomness")
    add("--shard-size", type=int, default=2, help="problems of one task")
    add("--workers", type=int, default=2, help="processes of Ray; 0: this one, without Ray")
    add("--out", type=Path, default=Path("steps.jsonl"), help="file to write")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    begun = time.perf_counter()
    problems = read_problems(args.problems)
    size = args.shard_size
    shards = [problems[i : i + size] for i in range(0, len(problems), size)]
    names = ("evaluator", "model", "simulations", "children", "rollouts", "delay", "seed")
    settings = Settings(**{name: getattr(args, name) for name in names})
    if args.workers:
        found = run_on_ray(shards, settings, args.workers)
    else:
        found = run_here(shards, settings)
    rows = with_credit([tree for trees in found for tree in trees])
    questions = [{"name": problem.name, "question": problem.question} for problem in problems]
    meta = {"credit": CREDIT, "shard_size": size, **json.loads(json.dumps(vars(settings)))}
    write_steps(args.out, [{**questions[row["tree"]], **row} for row in rows], meta)
    total = sum(abs(row["credit"]) for row in rows)
    print(
        f"{len(problems)} trees, {len(rows)} steps, total credit {total:.6f}, "
        f"{time.perf_counter() - begun:.1f} s"
    )


if __name__ == "__main__":
    # As a module, so that workers import it and keep the model from shard to shard.
    import ray_search

    ray_search.main()
