"""Files: rollouts in, credit out. Depends on `rollouts` and `credit`; pyarrow only for Parquet.

`read_rollouts` reads a file whole, `iter_groups` one group at a time, and
`write_credit` writes a result. `docs/formats.md` has every format's fields.

`lines` and `parquet` open files, `convert` turns what trainers write into our
records, `schema` checks a record, `source` puts these together, `groups`
streams, `rows` and `write` are the way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from apportion.absent import NanPolicy
from apportion.credit import Credit
from apportion.errors import DtypeError
from apportion.rollouts import Rollouts

__all__ = ["EXAMPLE", "example_rollouts", "iter_groups", "read_rollouts", "write_credit"]

EXAMPLE = Path(__file__).parent.parent / "data" / "rollouts.jsonl"
"""The file that `example_rollouts` reads."""


def example_rollouts() -> Rollouts:
    """96 real trajectories of 12 text games, 8 of each, played by a small language model.

    `data/README.md` in the package says how they were made.
    """
    return read_rollouts(EXAMPLE)


def read_rollouts(
    path: str | PathLike[str],
    format: str = "auto",
    *,
    group_key: str | None = None,
    reward_key: str | Sequence[str] | None = None,
    nan_rewards: str = "mask",
    nan_values: str = "raise",
) -> Rollouts:
    """Read a whole file of rollouts.

    Args:
        path: a file of JSON lines, also compressed (`.gz`), or of Parquet.
        format: `"apportion"`, `"openai"`, `"verl"`, `"trl"`, or `"auto"`: told from
            the fields of the first line or row.
        group_key: field that holds the group in formats of others. By default
            `group`, `group_id` or `uid` where there, else what the policy was asked
            (with its optimiser step, where the file has one).
        reward_key: field that holds the outcome; for TRL, whose files have one column a
            reward function, also several, which are added.
        nan_rewards: as in `Rollouts.from_padded`, and so `nan_values`.

    Raises:
        FileFormatError: the file cannot be read; names the file, the line and the field.
        ExtraMissingError: Parquet without pyarrow.
        OSError: the file is not there or cannot be opened.
    """
    from apportion.io.source import open_source

    source = open_source(path, format, group_key, reward_key)
    places, records = [], []
    for place, record in source.records():
        places.append(place)
        records.append(record)
    nan = NanPolicy(nan_rewards, nan_values)
    return Rollouts._from_records(records, lambda i: str(places[i]), nan)


def iter_groups(
    path: str | PathLike[str],
    format: str = "auto",
    *,
    group_key: str | None = None,
    reward_key: str | Sequence[str] | None = None,
    nan_rewards: str = "mask",
    nan_values: str = "raise",
) -> Iterator[Rollouts]:
    """Read a file of any size, one whole group at a time, in flat memory.

    A group's trajectories may lie anywhere in the file: a first pass checks every
    line and notes where it starts, a second one reads group by group, in the order
    in which groups first appear. What cannot be read at any place (compressed files,
    Parquet) is unpacked into a temporary file by the first pass.

    Arguments and errors are those of `read_rollouts`.
    """
    from apportion.io.groups import GroupedFile
    from apportion.io.source import open_source

    with GroupedFile(open_source(path, format, group_key, reward_key)) as file:
        yield from file.batches(1, NanPolicy(nan_rewards, nan_values))


def write_credit(
    path: str | PathLike[str], credit: Credit, *, format: str = "auto", source: str | None = None
) -> None:
    """Write credit to a file, one row a trajectory, with the method and its options.

    The file appears in one step when it is complete: it is written beside its place,
    flushed to disk and renamed, and removed on any error.

    Args:
        path: the file. One that is there is replaced.
        credit: a result of `apportion.credit`.
        format: `"parquet"`, `"jsonl"`, or `"auto"`: by the ending of the name
            (`.parquet`, `.jsonl`, `.jsonl.gz`).
        source: where the rollouts came from, kept in the file's metadata.

    Raises:
        InputError: an ending that says nothing, or an unknown format.
        ExtraMissingError: Parquet without pyarrow.
        OSError: the file cannot be written.
    """
    from apportion.io.write import CreditWriter, described

    if not isinstance(credit, Credit):
        raise DtypeError(f"credit: got {type(credit).__name__}, expected apportion.Credit")
    with CreditWriter(path, described(credit, source), format) as writer:
        writer.write(credit)
