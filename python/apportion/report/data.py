"""What a report shows, as one JSON value. Depends on the public API and NumPy.

Turns and trajectories are columns of equal length, so that a thousand
trajectories stay small; texts are kept once each, however often they occur.
Turns are in turn order throughout, also where a row is a turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apportion import _core
from apportion.arrays import Array
from apportion.credit import Credit
from apportion.encode import as_list
from apportion.errors import InputError
from apportion.methods import methods
from apportion.report.findings import Batch, findings
from apportion.rollouts import Rollouts

MAX_TEXT = 20_000  # characters kept of one text
MAX_TEXTS = 32_000_000  # characters kept of all texts together
BARS = 41  # of the histogram; odd, so that one bar is centred on 0

Json = Any


def gather(
    rollouts: Rollouts,
    credits: Credit | Sequence[Credit],
    *,
    title: str,
    source: str | None,
) -> dict[str, Json]:
    """Everything that the page needs; see `write_report`."""
    chosen = [credits] if isinstance(credits, Credit) else as_list("credits", credits)
    _check(rollouts, chosen)
    batch = Batch.of(rollouts)
    texts = Texts()
    turns = _turns(batch, rollouts.turn_texts, texts)
    strings, limit = texts.within(MAX_TEXT, MAX_TEXTS)
    return {
        "title": title,
        "source": source,
        "version": _core.__version__,
        "counts": {
            "groups": len(batch.group_names),
            "trajectories": len(batch.groups),
            "turns": len(batch.spans),
            "tokens": int(rollouts.lengths.sum()),
        },
        "credits": _described(batch, chosen),
        "groups": batch.group_names,
        "trajectories": {
            "name": _names(rollouts),
            "group": batch.groups.tolist(),
            "turns": batch.offsets.tolist(),
            "outcome": None if batch.outcomes is None else numbers(batch.outcomes),
            "tokens": rollouts.lengths.tolist(),
        },
        "turns": turns,
        "findings": findings(batch),
        "strings": strings,
        "text_limit": limit,
    }


def _names(rollouts: Rollouts) -> list[str] | None:
    """Names of the trajectories where the file had any."""
    return None if rollouts.trajectory_names is None else list(rollouts.trajectory_names)


def _check(rollouts: Rollouts, credits: Sequence[Credit]) -> None:
    if not isinstance(rollouts, Rollouts):
        raise InputError(f"rollouts: got {type(rollouts).__name__}, expected apportion.Rollouts")
    if not credits:
        raise InputError("credits: got none, expected at least one result of apportion.credit")
    for index, credit in enumerate(credits):
        if not isinstance(credit, Credit):
            raise InputError(
                f"credits[{index}]: got {type(credit).__name__}, expected apportion.Credit"
            )
        got, expected = credit.rollouts.num_turns, rollouts.num_turns
        if got != expected or credit.rollouts.num_trajectories != rollouts.num_trajectories:
            raise InputError(
                f"credits[{index}]: got credit of {credit.rollouts.num_trajectories} trajectories "
                f"with {got} turns, expected {rollouts.num_trajectories} with {expected}, "
                "those of the rollouts"
            )


def numbers(values: Array) -> list[float | None]:
    """Numbers with nine significant digits, which keeps float32 exact; NaN is null."""
    return [float(f"{v:.9g}") if math.isfinite(v) else None for v in values.tolist()]


class Texts:
    """Texts by number, each kept once."""

    def __init__(self) -> None:
        """Starts with none."""
        self._numbers: dict[str, int] = {}

    def number(self, text: Any) -> int | None:
        """The number of a text; `None` for none."""
        if text is None:
            return None
        return self._numbers.setdefault(str(text), len(self._numbers))

    def within(self, each: int, together: int) -> tuple[list[str], int | None]:
        """All texts, each cut in the middle where it is longer than a limit, and that
        limit, or `None` if nothing was cut."""
        lengths = np.array([len(text) for text in self._numbers], dtype=np.int64)
        limit = each
        while limit > 1 and int(np.minimum(lengths, limit).sum()) > together:
            limit //= 2
        cut = bool((lengths > limit).any())
        return [_shortened(text, limit) for text in self._numbers], limit if cut else None


def _shortened(text: str, limit: int) -> str:
    left_out = len(text) - limit
    if left_out <= 0:
        return text
    head = limit - limit // 3
    tail = text[len(text) - limit // 3 :]
    return f"{text[:head]}\n[{left_out:,} characters left out of this report]\n{tail}"


def _turns(
    batch: Batch, turn_texts: Sequence[Mapping[str, Any]] | None, texts: Texts
) -> dict[str, Json]:
    described = turn_texts or [{}] * len(batch.spans)
    shown: dict[str, Json] = {
        name: [texts.number(turn.get(name)) for turn in described]
        for name in ("text", "observation")
    }
    return {
        "tokens": (batch.spans[:, 1] - batch.spans[:, 0]).tolist(),
        "reward": None if batch.turn_rewards is None else numbers(batch.turn_rewards),
        "alone": np.flatnonzero(batch.alone).tolist(),
        **{name: ids if any(i is not None for i in ids) else None for name, ids in shown.items()},
    }


def _described(batch: Batch, credits: Sequence[Credit]) -> list[dict[str, Json]]:
    labels: list[str] = []
    for credit in credits:
        given = [f"{name}={value}" for name, value in credit.options.items()]
        label = " ".join([credit.method, *([f"like {credit.like}"] if credit.like else []), *given])
        repeats = sum(other == label or other.startswith(f"{label} #") for other in labels)
        labels.append(f"{label} #{repeats + 1}" if repeats else label)
    return [
        {"label": label, **_about(credit), **_numbers_of(batch, credit)}
        for label, credit in zip(labels, credits, strict=True)
    ]


def _about(credit: Credit) -> dict[str, Json]:
    """What is known of the method, and its options as they were in force."""
    card = methods().get(credit.method)
    given = dict(credit.options)
    if card is None:
        options = [[name, repr(value), True] for name, value in given.items()]
        return {"method": credit.method, "title": "a function of yours", "options": options}
    preset = dict(card.presets.get(credit.like, {})) if credit.like else {}
    changed = {**preset, **given}
    options = [
        [o.name, repr(changed.get(o.name, o.default)), o.name in changed, o.doc]
        for o in card.options
    ]
    return {
        "method": credit.method,
        "title": card.title,
        "certainty": card.certainty,
        "granularity": card.granularity,
        "paper": card.paper,
        "like": credit.like,
        "options": options,
    }


def _numbers_of(batch: Batch, credit: Credit) -> dict[str, Json]:
    level, values = credit.values["advantages"]
    advantages = batch.in_turn_order(credit.turn_advantages)
    parts = {**{k: v for k, v in credit.values.items() if k != "advantages"}, **credit.extras}
    of_turns = {n: numbers(batch.in_turn_order(v)) for n, (at, v) in parts.items() if at == "turn"}
    of_trajectories = {n: numbers(v) for n, (at, v) in parts.items() if at == "trajectory"}
    return {
        "level": level,
        "counts": dict(credit.counts),
        "advantages": numbers(advantages),
        "within": _within(batch.spans, values) if level == "token" else None,
        "parts": of_turns,
        "trajectory_parts": of_trajectories,
        "scale": _scale(advantages),
        "histogram": _histogram(advantages),
    }


def _within(spans: Array, values: Array) -> dict[str, Json]:
    """Lowest and highest credit of a token within each turn that has tokens."""
    low, high = np.full(len(spans), np.nan), np.full(len(spans), np.nan)
    for turn, (start, end) in enumerate(spans.tolist()):
        if end > start:
            low[turn], high[turn] = values[start:end].min(), values[start:end].max()
    return {"low": numbers(low), "high": numbers(high)}


def _scale(advantages: Array) -> float:
    """The credit shown at full strength: the 95th percentile of what is not 0, so that one
    outlier does not make all else pale."""
    sizes = np.abs(advantages[np.isfinite(advantages) & (advantages != 0)])
    return float(f"{np.quantile(sizes, 0.95):.9g}") if len(sizes) else 1.0


def _histogram(advantages: Array) -> dict[str, Json]:
    """Counts of turns by credit, over an interval around 0; those at exactly 0 apart."""
    other = advantages[np.isfinite(advantages) & (advantages != 0)]
    reach = float(np.abs(other).max()) if len(other) else 1.0
    counts, edges = np.histogram(other, bins=BARS, range=(-reach, reach))
    return {
        "edges": numbers(edges),
        "counts": counts.tolist(),
        "zeros": int((advantages == 0).sum()),
    }
