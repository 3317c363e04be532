"""`apportion demo`: the main job on the rollouts that come with the package."""

from __future__ import annotations

import argparse
import shutil
import time

import numpy as np

import apportion
from apportion.cli.credit import Totals
from apportion.credit import Credit, credit
from apportion.io import EXAMPLE, example_rollouts

METHOD = "gigpo"
TURNS = 6  # shown of a trajectory


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from apportion.report import write_report

    begun = time.perf_counter()
    rollouts = example_rollouts()
    read = time.perf_counter()
    result = credit(METHOD, rollouts)
    done = time.perf_counter()
    totals = Totals()
    totals.add(result)
    card = apportion.methods()[METHOD]
    print(f"{METHOD}: {card.title} ({card.paper})")
    print(f"{totals}\n")
    print(examples(result, shutil.get_terminal_size((100, 24)).columns))
    print(f"read in {(read - begun) * 1e3:.0f} ms, credit in {(done - read) * 1e3:.1f} ms")
    write_report(args.output, rollouts, result, title="Demo: text games", source=EXAMPLE.name)
    print(f"report: {args.output}")


def examples(result: Credit, width: int) -> str:
    """Of a group with both outcomes, one trajectory that won and one that lost."""
    offsets = result.rollouts.turns[0]
    outcomes = np.asarray(result.rollouts.columns["outcome_rewards"])
    groups, lengths = result.rollouts.groups, np.diff(offsets)
    for group in range(int(groups.max()) + 1):
        members = np.flatnonzero((groups == group) & (lengths >= 3))
        won, lost = members[outcomes[members] > 0], members[outcomes[members] <= 0]
        if len(won) and len(lost):
            return "\n".join(_trajectory(result, int(i), width) for i in (won[0], lost[0]))
    return "\n".join(_trajectory(result, i, width) for i in range(min(2, len(lengths))))


def _trajectory(result: Credit, index: int, width: int) -> str:
    rollouts = result.rollouts
    first, last = rollouts.turns[0][index : index + 2].tolist()
    names, texts = rollouts.trajectory_names or [], rollouts.turn_texts or []
    outcome = float(np.asarray(rollouts.columns["outcome_rewards"])[index])
    lines = [f"{names[index]}: outcome {outcome:g}, {last - first} turns", "    credit  turn"]
    for turn in range(first, min(last, first + TURNS)):
        text = " ".join(str(texts[turn]["text"]).split())
        line = f"   {result.turn_advantages[turn]:+7.3f}  {text}"
        lines.append(line if len(line) <= width else line[: width - 3] + "...")
    if last - first > TURNS:
        lines.append(f"            and {last - first - TURNS} more")
    return "\n".join([*lines, ""])
