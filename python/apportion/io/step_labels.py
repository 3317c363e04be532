"""Steps with their labels to a file, in one step or not at all; pyarrow only for Parquet."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from apportion.errors import InputError
from apportion.io.parquet import pyarrow

Json = Any
ENDINGS = (".parquet", ".jsonl", ".jsonl.gz")


def check_ending(path: str | PathLike[str]) -> None:
    """Refuse a name that `write_steps` would refuse, before there is anything to write."""
    name = Path(fspath(path)).name
    if not name.endswith(ENDINGS):
        raise InputError(f"{name}: unknown ending, expected one of {', '.join(ENDINGS)}")
    if name.endswith(".parquet"):
        pyarrow()


def write_steps(
    path: str | PathLike[str], rows: Sequence[Mapping[str, Json]], meta: Mapping[str, Json]
) -> None:
    """Write rows of `StepEvaluator.steps`, one a step.

    JSON lines begin with `{"meta": ...}`; Parquet has it in the file's metadata.

    Raises:
        InputError: an ending other than .parquet, .jsonl and .jsonl.gz.
        ExtraMissingError: Parquet without pyarrow.
    """
    from apportion.report.page import replace_file

    check_ending(path)
    name = Path(fspath(path)).name
    if name.endswith(".parquet"):
        replace_file(path, _table(rows, meta))
        return
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in ({"meta": meta}, *rows))
    packed = "".join(lines).encode("utf-8", "replace")
    replace_file(path, gzip.compress(packed, mtime=0) if name.endswith(".gz") else packed)


def _table(rows: Sequence[Mapping[str, Json]], meta: Mapping[str, Json]) -> bytes:
    pa = pyarrow()
    types = {
        "name": pa.string(),
        "question": pa.string(),
        "tree": pa.int64(),
        "node": pa.int64(),
        "parent": pa.int64(),
        "depth": pa.int64(),
        "text": pa.string(),
        "tokens": pa.list_(pa.int32()),
        "log_prob": pa.float64(),
        "prior": pa.float64(),
        "visits": pa.int64(),
        "q": pa.float64(),
        "value": pa.float64(),
        "terminal": pa.bool_(),
        "scores": pa.list_(pa.float64()),
        "soft": pa.float64(),
        "hard": pa.bool_(),
    }
    about = {"apportion": json.dumps(meta, ensure_ascii=False)}
    table = pa.Table.from_pylist(list(rows), pa.schema(list(types.items()), about))
    out = io.BytesIO()
    pa.parquet.write_table(table, out, compression="zstd")
    return out.getvalue()
