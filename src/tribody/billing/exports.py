"""Rows as CSV or Parquet, a batch in memory at a time.  A file appears whole or not at all.

Text that a spreadsheet would run as a formula (`=`, `+`, `-`, `@` first) gets an apostrophe in
CSV; Parquet holds it as it is.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal, TextIO

from tribody.core.errors import BadConfig

Cell = str | int | None
Kind = Literal["text", "integer", "boolean"]
Columns = Sequence[tuple[str, Kind]]
FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")
BATCH_ROWS = 65_536


def write_csv(stream: TextIO, columns: Columns, rows: Iterable[Sequence[Cell]]) -> int:
    """The number of rows.  None is an empty cell."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([name for name, _kind in columns])
    count = 0
    for row in rows:
        writer.writerow([_safe(cell) for cell in row])
        count += 1
    return count


def _safe(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_BEGINS) else cell


def save_csv(path: Path, columns: Columns, rows: Iterable[Sequence[Cell]]) -> int:
    """As `write_csv`, into a file.  Raises: BadConfig if it cannot be written."""
    with replaced(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        return write_csv(stream, columns, rows)


def save_parquet(path: Path, columns: Columns, rows: Iterable[Sequence[Cell]]) -> int:
    """The number of rows.  Raises: BadConfig without pyarrow, or if it cannot be written."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadConfig(
            f"{path}: Parquet needs pyarrow, which is not installed here; install "
            "'tribody[parquet]', or export as CSV"
        ) from error
    kinds = {"text": pyarrow.string(), "integer": pyarrow.int64(), "boolean": pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns])
    count = 0
    with replaced(path) as part, pyarrow.parquet.ParquetWriter(part, schema) as writer:
        left = iter(rows)
        while batch := list(islice(left, BATCH_ROWS)):
            cells = zip(*batch, strict=True)
            arrays = [
                pyarrow.array(column, field.type)
                for column, field in zip(cells, schema, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            count += len(batch)
    return count


def save_text(path: Path, text: str) -> None:
    """A page or a table, whole.  Raises: BadConfig if it cannot be written."""
    with replaced(path) as part:
        part.write_text(text, "utf-8")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Where to write what then takes the place of `path`; an error leaves that as it was."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise BadConfig(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
