"""Peak memory from hidden states and head to loss and gradients: tokens and vocabularies.

    python benches/loss/memory.py OUT.json            # measures; a forked process for each number
    python benches/loss/memory.py OUT.json PLOT.svg   # draws what was measured

Peak is the highest resident set less what was resident before: gradients count, the hidden
states and the head do not. Needs TRL, torch and Linux. May depend on `heads` and `measure`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "trl")]
import heads  # noqa: E402
import measure  # noqa: E402
from bench_linear import trl as trl_log_probs  # noqa: E402

TOKENS = (256, 512, 1024, 2048)
VOCABULARIES = (49152, 151936)
PROVIDERS = {
    "eager": "eager torch",
    "trl": "TRL, chunked",
    "fused": "linear_policy_loss, fused",
    "recompute": "linear_policy_loss, recompute",
}
COLOURS = {"eager": "#8a6d3b", "trl": "#b5483a", "fused": "#2f7f86", "recompute": "#3b4a8a"}


def runs(data: heads.Batch) -> dict[str, Callable[[], Any]]:
    """What each provider does with a batch."""
    return {
        "eager": lambda: data.step(data.eager),
        "trl": lambda: data.step(lambda: trl_log_probs(data)),
        "fused": lambda: data.ours(mode="fused"),
        "recompute": lambda: data.ours(mode="recompute"),
    }


def measured() -> dict[str, Any]:
    torch.set_num_threads(1)
    for run in runs(heads.batch(8, 1000)).values():
        run()  # what is loaded at the first use is no memory of the second
    rows = []
    for vocabulary in VOCABULARIES:
        for tokens in TOKENS:
            data = heads.batch(tokens, vocabulary)
            for provider, run in runs(data).items():
                rows.append([provider, vocabulary, tokens, round(measure.peak_mib(run) or 0)])
                print(*rows[-1], flush=True)
    versions = {"torch": torch.__version__, "trl": trl.__version__}
    return {"machine": {**measure.machine(), "versions": versions}, "rows": rows}


def drawing(found: dict[str, Any]) -> str:
    """Two panels side by side, one a vocabulary; tokens to the right, GiB upwards."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 360" '
        'font-family="sans-serif" font-size="12" fill="#333">',
        '<rect width="760" height="360" fill="#fff"/>',
    ]
    for number, vocabulary in enumerate(VOCABULARIES):
        parts += panel(found["rows"], vocabulary, 60 + 370 * number)
    for number, (provider, label) in enumerate(PROVIDERS.items()):
        x, y = 60 + 370 * (number % 2), 324 + 20 * (number // 2)
        line = f'<line x1="{x}" y1="{y - 4}" x2="{x + 24}" y2="{y - 4}" '
        parts.append(f'{line}stroke="{COLOURS[provider]}" stroke-width="2.5"/>')
        parts.append(f'<text x="{x + 32}" y="{y}">{label}</text>')
    return "\n".join([*parts, "</svg>\n"])


def panel(rows: list[Any], vocabulary: int, left: int) -> list[str]:
    width, height, top = 290, 220, 40
    own = [row for row in rows if row[1] == vocabulary]
    most = max(row[3] for row in own) / 1024 * 1.05

    def x(tokens: int) -> float:
        return left + width * tokens / TOKENS[-1]

    def y(gib: float) -> float:
        return top + height * (1 - gib / most)

    title = f"vocabulary {vocabulary:,}: GiB beyond hidden states and head"
    parts = [f'<text x="{left}" y="22" font-weight="bold">{title}</text>']
    step = next(s for s in (0.25, 0.5, 1, 2, 4, 8) if most / s <= 6)
    for tick in range(int(most / step) + 1):
        at = y(tick * step)
        parts.append(
            f'<line x1="{left}" y1="{at:.1f}" x2="{left + width}" y2="{at:.1f}" stroke="#ddd"/>'
        )
        parts.append(
            f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{tick * step:g}</text>'
        )
    for tokens in TOKENS:
        parts.append(
            f'<text x="{x(tokens):.1f}" y="{top + height + 18}" text-anchor="middle">'
            f"{tokens}</text>"
        )
    parts.append(
        f'<text x="{left + width}" y="{top + height + 34}" text-anchor="end">tokens</text>'
    )
    for provider, colour in COLOURS.items():
        points = [(x(row[2]), y(row[3] / 1024)) for row in own if row[0] == provider]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
    return parts


def main(target: str, plot: str | None = None) -> None:
    if plot is not None:
        Path(plot).write_text(drawing(json.loads(Path(target).read_text())))
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(json.dumps(measured(), indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
