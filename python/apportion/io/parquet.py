"""Parquet through pyarrow, which is optional: rows in, and pyarrow for the way out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apportion.errors import ExtraMissingError, FileFormatError
from apportion.io.lines import Place

BATCH_ROWS = 64
"""Rows decoded at a time; a row may hold megabytes of text."""


def pyarrow() -> Any:
    """pyarrow with its Parquet part, or the error that says how to install it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ExtraMissingError(
            'Parquet needs pyarrow, which is not installed: pip install "apportion[cli]"'
        ) from error
    return pyarrow


class Table:
    """A Parquet file: its columns, and its rows as dictionaries."""

    def __init__(self, path: Path) -> None:
        """Reads the schema alone."""
        self.arrow = pyarrow()
        self.path = path
        try:
            with self.arrow.parquet.ParquetFile(path) as file:
                self.schema = file.schema_arrow
                self.size: int = file.metadata.num_rows
        except self.arrow.ArrowException as error:
            raise FileFormatError(f"{path}: not readable as Parquet: {error}") from error

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return list(self.schema.names)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the columns of numbers; those of nothing but nulls count as such."""
        types = self.arrow.types
        tests = (types.is_floating, types.is_integer, types.is_boolean, types.is_null)
        return tuple(f.name for f in self.schema if any(test(f.type) for test in tests))

    def rows(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Every row; fields of objects in it that are null are left out."""
        number = 0
        try:
            with self.arrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        full = {name: _without_nulls(value) for name, value in row.items()}
                        yield Place(str(self.path), number, "row"), full
        except self.arrow.ArrowException as error:
            raise FileFormatError(f"{self.path}: after row {number}: {error}") from error


def _without_nulls(value: Any) -> Any:
    """Parquet has every field in every object; those without a value were never there."""
    if isinstance(value, dict):
        return {n: _without_nulls(v) for n, v in value.items() if v is not None}
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return [_without_nulls(item) for item in value]
    return value
