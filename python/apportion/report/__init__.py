"""A report: one HTML file that shows who got which credit, and opens from disk.

Depends on `rollouts`, `credit` and `methods` through their public parts. The parts
are loaded at the first call, so that importing `apportion` stays light.

`data` gathers the numbers, `findings` looks for what is worth a warning, `page`
makes HTML of both, `assets/` is what runs in the browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apportion.credit import Credit
    from apportion.rollouts import Rollouts


def write_report(
    path: str | PathLike[str],
    rollouts: Rollouts,
    credits: Credit | Sequence[Credit],
    *,
    title: str = "Credit report",
    source: str | None = None,
) -> None:
    """Write a self-contained HTML report of `credits` over `rollouts` to `path`.

    Per group the trajectories stand side by side, each turn coloured by its credit;
    with several credits a selector switches the colouring. Texts are shown where the
    rollouts have them (`rollouts.turn_texts`), else numbers alone. Texts are inert:
    the page builds no HTML from them, and its content-security policy allows no
    script, style or address but its own. Numbers keep nine significant digits.

    A text longer than 20,000 characters is cut in the middle, and says so. If all
    texts together exceed 32 million characters, the limit is halved until they fit.

    Args:
        path: the file, replaced in one step when it is complete.
        rollouts: the batch.
        credits: one result of `apportion.credit` on this batch, or several.
        title: heading of the page.
        source: where the rollouts came from, for example the file's name.

    Raises:
        InputError: no credit, or a credit of a batch with other turns.
        OSError: the file cannot be written.
    """
    from apportion.report.data import gather
    from apportion.report.page import render, replace_file

    replace_file(path, render(gather(rollouts, credits, title=title, source=source)))
