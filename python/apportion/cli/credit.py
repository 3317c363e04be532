"""`apportion credit`: a file of rollouts in, a file of credit and a report out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apportion import _core
from apportion.cli.progress import Progress
from apportion.credit import Credit, credit
from apportion.errors import OptionError
from apportion.io.groups import GroupedFile
from apportion.io.source import LineSource, TableSource, open_source
from apportion.io.write import CreditWriter, described_run
from apportion.rollouts import Rollouts

REPORTED = 1000
"""Trajectories in the report of a file that was read group by group."""


@dataclass
class Totals:
    """Sizes and counts over all batches."""

    trajectories: int = 0
    turns: int = 0
    tokens: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, result: Credit) -> None:
        """Count a batch in."""
        self.trajectories += result.rollouts.num_trajectories
        self.turns += result.rollouts.num_turns
        self.tokens += int(result.rollouts.lengths.sum())
        for name, count in result.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def __str__(self) -> str:
        """Sizes, then what a person should know."""
        sizes = (
            f"{self.counts.get('groups', 0):,} groups, {self.trajectories:,} trajectories, "
            f"{self.turns:,} turns, {self.tokens:,} tokens"
        )
        notes = {
            "zero_spread": "groups without spread",
            "singletons": "groups of one",
            "absent": "rewards absent",
        }
        told = [f"{self.counts[n]:,} {text}" for n, text in notes.items() if self.counts.get(n)]
        return "; ".join([sizes, *told])


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    begun = time.perf_counter()
    options = parse_options(args.set)
    wide = _core.batch_wide(args.method, options, args.like)
    _check_outputs(args.file, args.output, args.report)
    source = open_source(args.file, args.format, args.group_key, args.reward_key)
    meta = described_run(args.method, options, args.like, str(args.file))
    totals = Totals()
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(args.progress))
        writer = CreditWriter(args.output, meta)
        batches: Iterable[Rollouts]
        if wide:
            _say(f"{args.method} has statistics over the whole batch: reading all of {args.file}")
            whole = _read_all(source, progress)
            batches = [whole]
        else:
            grouped = stack.enter_context(GroupedFile(source, progress.stage("checking")))
            batches = grouped.batches(tick=progress.stage("credit"))
        with writer:
            for rollouts in batches:
                result = credit(args.method, rollouts, like=args.like, **options)
                writer.write(result)
                totals.add(result)
        progress.stop()
        _say(f"{args.method}: {totals}")
        _say(f"wrote {args.output} in {time.perf_counter() - begun:.1f} s")
        if args.report:
            _report(args, whole if wide else grouped.head(REPORTED), options, totals)


def parse_options(settings: list[str]) -> dict[str, Any]:
    """`name=value` pairs; a value is JSON, a number such as `.5`, or else text."""
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise OptionError(f"--set: got {setting!r}, expected NAME=VALUE")
        options[name] = _value(text)
    return options


def _value(text: str) -> Any:
    for read in (json.loads, float):
        with suppress(ValueError):
            return read(text)
    return text


def _check_outputs(given: str, *outputs: str | None) -> None:
    """Find what could not be written before a long file is read."""
    for output in outputs:
        if output is None:
            continue
        path = Path(output).resolve()
        if path == Path(given).resolve():
            raise OptionError(f"{output}: is the input, expected another file for the output")
        if path.is_dir():
            raise OptionError(f"{output}: is a folder, expected a file")
        if not path.parent.is_dir():
            raise OptionError(f"{output}: no folder {path.parent}, expected one that is there")


def _read_all(source: LineSource | TableSource, progress: Progress) -> Rollouts:
    tick = progress.stage("reading")
    places, records = [], []
    for place, record in source.records():
        places.append(place)
        records.append(record)
        tick(*source.progress())
    return Rollouts._from_records(records, lambda i: str(places[i]))


def _report(
    args: argparse.Namespace, rollouts: Rollouts, options: Mapping[str, Any], totals: Totals
) -> None:
    from apportion.report import write_report

    shown = len(rollouts)
    source = Path(args.file).name
    if shown < totals.trajectories:
        source = f"{source}, the first {shown:,} of {totals.trajectories:,} trajectories"
    result = credit(args.method, rollouts, like=args.like, **options)
    write_report(args.report, rollouts, result, source=source)
    _say(f"wrote {args.report}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
