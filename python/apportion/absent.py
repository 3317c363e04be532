"""What a NaN means: in rewards (the core knows) and in other columns of numbers (done here).

Depends on `arrays`, `encode`, `errors` and `layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from apportion import encode
from apportion.arrays import Array
from apportion.errors import InputError
from apportion.layout import Layout

POLICIES = ("mask", "raise", "zero")


@dataclass(frozen=True)
class NanPolicy:
    """What a NaN means among rewards, and among the numbers of every other column."""

    rewards: str = "mask"
    values: str = "raise"

    def __post_init__(self) -> None:
        """Refuses what is no policy."""
        for name, given in (("nan_rewards", self.rewards), ("nan_values", self.values)):
            if given not in POLICIES:
                raise InputError(f"{name}: got {given!r}, expected one of {POLICIES}")


USUAL = NanPolicy()


def without_nan(
    layout: Layout,
    columns: Mapping[str, Any],
    policy: NanPolicy,
    turns: Callable[[], tuple[Array, Array]],
) -> tuple[Layout, dict[str, Any], int]:
    """The batch with the NaN taken out that `policy.values` lets pass, and their number.

    Only trained tokens count. Under `"mask"` they are no longer trained; `turns` gives the
    turns of before, which stay as they are. Columns without NaN are not copied.
    """
    kept = dict(columns)
    if policy.values == "raise":
        return layout, kept, 0
    trained = np.ones(layout.tokens, bool) if layout.mask is None else layout.mask != 0
    found, taken = 0, np.zeros(0, np.intp)
    for name, column in columns.items():
        if encode.spec(name)["kind"] != "Float" or column.size != trained.size:
            continue  # a wrong length is the core's to tell
        places = np.flatnonzero(np.isnan(column) & trained)
        if places.size:
            kept[name] = np.where(np.isnan(column), column.dtype.type(0), column)
            found += places.size
            taken = np.union1d(taken, places)
    if policy.values == "mask" and taken.size:
        mask = np.ones(layout.tokens, np.uint8) if layout.mask is None else layout.mask.copy()
        spans = layout.turns
        if spans is None and layout.trajectory_ids is None:
            offsets, pairs = turns()
            spans = offsets, pairs.reshape(-1)
        mask[taken] = 0
        layout = replace(layout, mask=mask, turns=spans)
    return layout, kept, found
