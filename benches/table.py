"""Joins the rows of a benchmark's environments into DIR/NAME.json and prints the table.

    python table.py NAME OUT_DIR ROWS.json...

Standard library alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KEYS = ("case", "peer", "ours_s", "peer_s", "ratio", "goal", "ours_peak_mib", "peer_peak_mib")
HEADS = ("case", "peer", "ours", "peer's", "ratio", "goal", "GB/s", "peak MiB", "peer's")


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def number(value: float | None, form: str = ".0f") -> str:
    return "-" if value is None else format(value, form)


def verdict(row: dict[str, Any]) -> str:
    if row["goal"] is None or row["ratio"] is None:
        return number(row["goal"])
    return f"{row['goal']:g} {'met' if row['ratio'] >= row['goal'] else 'MISSED'}"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    rate = row["moved"] / row["ours_s"] / 1e9 if row.get("moved") else None
    return (
        row["case"],
        row["peer"],
        seconds(row["ours_s"]),
        seconds(row["peer_s"]),
        "-" if row["ratio"] is None else f"{row['ratio']:.3g}x",
        verdict(row),
        number(rate, ".1f"),
        number(row["ours_peak_mib"]),
        number(row["peer_peak_mib"]),
    )


def table(rows: list[dict[str, Any]]) -> str:
    lines = [HEADS, *(cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    right = range(2, len(HEADS))

    def line(parts: tuple[str, ...]) -> str:
        padded = (
            part.rjust(width) if i in right else part.ljust(width)
            for i, (part, width) in enumerate(zip(parts, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = tuple("-" * width for width in widths)
    return "\n".join(line(parts) for parts in (lines[0], rule, *lines[1:]))


def main(name: str, out: str, *sources: str) -> None:
    parts = [json.loads(Path(source).read_text()) for source in sources]
    rows = [row for part in parts for row in part["rows"]]
    machine = parts[0]["machine"]
    for part in parts[1:]:
        machine["versions"].update(part["machine"]["versions"])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    kept = [{key: row[key] for key in KEYS} for row in rows]
    target = folder / f"{name}.json"
    target.write_text(json.dumps({"machine": machine, "rows": kept}, indent=1) + "\n")

    print(table(rows))
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items())
    print(f"\n{machine['cpu']}, {machine['cores']} cores, load {machine['load']}; {versions}")
    print(
        f"One thread copies {machine['copy_gb_s']} GB/s (read plus written) and fills "
        f"{machine['fresh_gb_s']} GB/s of new memory.\n"
        "Medians; one thread: CPU seconds, several: wall seconds.\n"
        "GB/s: input read once and output written once, by ours. Peak: memory beyond the input."
    )
    print(f"written to {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
