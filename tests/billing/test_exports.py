"""Rows as files."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tribody.billing.exports import (
    BATCH_ROWS,
    Cell,
    Columns,
    save_csv,
    save_parquet,
    save_text,
)
from tribody.core.errors import BadConfig

COLUMNS: Columns = [("tenant", "text"), ("micro", "integer"), ("streamed", "boolean")]
ROWS: list[list[Cell]] = [["acme", 12, True], ["=1+1", -3, False], ['a "b", c\n', None, None]]


def test_csv_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    assert save_csv(path, COLUMNS, ROWS) == 3
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["tenant", "micro", "streamed"],
            ["acme", "12", "True"],
            ["'=1+1", "-3", "False"],
            ['a "b", c\n', "", ""],
        ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="the extra [parquet]")
def test_parquet_is_read_back(tmp_path: Path) -> None:
    import pyarrow.parquet

    path = tmp_path / "out.parquet"
    many: list[list[Cell]] = [["t", i, True] for i in range(BATCH_ROWS + 1)]
    assert save_parquet(path, COLUMNS, ROWS + many) == len(many) + 3
    table = pyarrow.parquet.read_table(path)
    assert table.schema.names == ["tenant", "micro", "streamed"]
    assert [str(field.type) for field in table.schema] == ["string", "int64", "bool"]
    assert table.slice(0, 3).to_pydict() == {
        "tenant": ["acme", "=1+1", 'a "b", c\n'],
        "micro": [12, -3, None],
        "streamed": [True, False, None],
    }
    assert sum(table["micro"].to_pylist()[3:]) == sum(range(BATCH_ROWS + 1))


@pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="the extra [parquet]")
def test_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    import pyarrow.parquet

    assert save_parquet(tmp_path / "x.parquet", COLUMNS, []) == 0
    assert pyarrow.parquet.read_table(tmp_path / "x.parquet").num_columns == 3


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadConfig, match=r"tribody\[parquet\]"):
        save_parquet(tmp_path / "x.parquet", COLUMNS, ROWS)
    assert list(tmp_path.iterdir()) == []


def test_an_error_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def rows() -> Iterator[list[Cell]]:
        yield ["acme", 1, True]
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError):
        save_csv(path, COLUMNS, rows())
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot be written"):
        save_text(tmp_path / "nowhere" / "x.html", "text")
    with pytest.raises(BadConfig, match="cannot be written"):
        save_csv(tmp_path / "nowhere" / "x.csv", COLUMNS, ROWS)
