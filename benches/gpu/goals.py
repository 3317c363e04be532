"""What is to be reached on a GPU, held against what was measured. Depends on nothing.

A goal is a number of ours, a ratio to a peer's or to the machine's own rates, and the
bound that it has to keep. One whose rows are not there, because a peer is not installed
or ran out of memory, is open, which is not met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """One line of the table of goals."""

    name: str
    what: str
    got: float | None
    bound: float
    at_most: bool = False

    @property
    def state(self) -> str:
        if self.got is None:
            return "open"
        kept = self.got <= self.bound if self.at_most else self.got >= self.bound
        return "met" if kept else "missed"

    def line(self) -> str:
        got = "-" if self.got is None else f"{self.got:.3g}"
        sign = "at most" if self.at_most else "at least"
        return f"{self.name:<4}{self.state:<8}{self.what:<58}{got:>8}  {sign} {self.bound:g}"


def find(rows: Sequence[Row], **case: Any) -> Row | None:
    """The row of a case, if it was measured."""
    fitting = (row for row in rows if all(row.get(k) == v for k, v in case.items()))
    return next((row for row in fitting if "error" not in row), None)


def ratio(ours: Row | None, theirs: Row | None, key: str = "ms") -> float | None:
    """A peer's figure as a multiple of ours; none where either is missing."""
    if ours is None or theirs is None:
        return None
    return float(theirs[key] / ours[key])


def worst(values: Sequence[float | None]) -> float | None:
    """The least of several, none where one is missing."""
    there = [value for value in values if value is not None]
    return min(there) if there and len(there) == len(values) else None


def recorded(goals: Sequence[Goal]) -> list[dict[str, Any]]:
    """Goals as the results keep them."""
    return [{**asdict(goal), "state": goal.state} for goal in goals]


def of_rows(rows: Sequence[Row], facts: dict[str, Any]) -> list[Goal]:
    """G1 to G3: the worst of all shapes, and the lengths that compile anew."""
    cases = {(r["tokens"], r["vocab"], r["peaked"]) for r in rows if "provider" in r}

    def least(part: str, ours: str, peer: str | None = None) -> float | None:
        found = []
        for tokens, vocab, peaked in cases:
            case = {"tokens": tokens, "vocab": vocab, "peaked": peaked, "part": part}
            own = find(rows, provider=ours, **case)
            share = None if own is None else own["share_of_copy"]
            found.append(ratio(own, find(rows, provider=peer, **case)) if peer else share)
        return worst(found)

    over = "ours, in place"
    again = float(facts["recompilations"]["ours"])
    return [
        Goal("G1", "forward, share of the copy's rate", least("forward", "ours"), 0.9),
        Goal("G1", "gradient in place, share of the copy's rate", least("gradient", over), 0.88),
        Goal("G2", "step in place, share of the rate at 6NV bytes", least("step", over), 1 / 1.1),
        Goal("G3", "forward against eager", least("forward", "ours", "eager"), 10),
        Goal("G3", "forward against torch.compile", least("forward", "ours", "torch.compile"), 1.3),
        Goal("G3", "forward against TRL", least("forward", "ours", "TRL"), 1),
        Goal("G3", "step in place against Liger", least("step", over, "Liger, in place"), 1.2),
        Goal("G3", "forms compiled for 20 lengths", again, 0, at_most=True),
    ]


def of_heads(rows: Sequence[Row]) -> list[Goal]:
    """G4 to G6, at the first shape. Peaks of G5 count the head, its gradient and the states'."""
    first = rows[0]
    shape = {key: first[key] for key in ("tokens", "width", "vocab")}
    by = {row["provider"]: row for row in rows if find([row], **shape)}
    given = 2 * (shape["vocab"] + shape["tokens"]) * shape["width"] / 2**30  # GiB of bfloat16
    fused = by.get("ours, fused 4096")
    recompute, frozen = by.get("ours, recompute"), by.get("ours, frozen head")

    def share(row: Row | None) -> float | None:
        return None if row is None else row["share_of_gemm"]

    def memory(peer: str) -> float | None:
        theirs = by.get(peer)
        if recompute is None or theirs is None:
            return None
        return float((recompute["peak_gib"] + given) / (theirs["peak_gib"] + given))

    workspace = None if recompute is None else 1024 * (recompute["peak_gib"] - given)
    return [
        Goal("G4", "fused 4,096, share of the product's rate", share(fused), 0.82),
        Goal("G4", "fused 4,096 against TRL", ratio(fused, by.get("TRL")), 1.2),
        Goal("G4", "fused 4,096 against verl's Triton", ratio(fused, by.get("verl")), 1.3),
        Goal("G4", "fused 4,096 against Liger", ratio(fused, by.get("Liger")), 3),
        Goal("G5", "recompute, share of four products' rate", share(recompute), 1 / 1.12),
        Goal("G5", "recompute, MiB beyond inputs and gradients", workspace, 160, at_most=True),
        Goal("G5", "recompute, peak against Liger's", memory("Liger"), 0.45, at_most=True),
        Goal("G5", "recompute, peak against TRL's", memory("TRL"), 0.6, at_most=True),
        Goal("G6", "frozen head, share of two products' rate", share(frozen), 1 / 1.15),
        Goal("G6", "frozen head against TRL", ratio(frozen, by.get("TRL, frozen head")), 1.4),
    ]


def of_light(rows: Sequence[Row], facts: dict[str, Any]) -> list[Goal]:
    """G7: the device's time of all kernels of a step, and what eager takes."""
    ours, eager = find(rows, provider="ours"), find(rows, provider="eager")
    spent = None if ours is None else ours["device_us"]
    waits = float(facts["waits"])
    return [
        Goal("G7", "microseconds of the device", spent, 20, at_most=True),
        Goal("G7", "waits of the host for the device", waits, 0, at_most=True),
        Goal("G7", "device's time against eager", ratio(ours, eager, "device_us"), 8),
    ]
