"""A catalogue of wrong input: what is wrong, a call, the error's class, what it must say.

Every message names the argument and the index where there is one, what was got and
what was expected. `test_bad_inputs.py` walks the table.
"""

from __future__ import annotations

from bad import calls, columns, values
from bad.base import Bad

PARTS = (
    values.masks,
    values.groups,
    values.rewards,
    values.tensors,
    columns.columns,
    columns.layouts,
    columns.records,
    calls.calls,
    calls.threads,
    calls.pieces,
    calls.results,
)


def catalogue() -> list[Bad]:
    """Every case."""
    return [bad for part in PARTS for bad in part()]
