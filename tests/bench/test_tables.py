"""Tables as text; README's block of measurements."""

import json

import pytest

from cells import ITSELF
from machine import ROOT
from measurements import rows_of
from tables import BLOCK, cells, json_lines, markdown, sections, spread, update_readme
from tests.bench.test_measurements import run, sample

RECORDS = [
    {
        "record": "run",
        "commit": "abc",
        "date": "2026-11-22",
        "load": 0.1,
        "cpu": "A processor",
        "isa": ["avx2"],
        "memory_gb": 8.0,
    },
    *run(
        sample("tribody", 1, 120),
        sample("tribody", 2, 140),
        sample("llama.cpp", 1, 60, variant="flash", weights="Q8_0"),
    ),
]
for record in RECORDS:
    if record["record"] == "limits":
        record["memory_bytes_per_second"] = 10_000.0
    if record["record"] == "engine":
        record |= {"version": "tribody abc", "system": "avx2", "threads": 2}


def test_spread() -> None:
    assert spread([100.4, 90, 120]) == "100 (90-120)"
    assert spread([1.25, 3, 2]) == "2.0 (1.2-3.0)"
    assert spread([7.0]) == "7.0 (once)"


def test_a_row_as_text() -> None:
    (row,) = rows_of(RECORDS)
    shown = cells(row)
    assert shown["tribody, tokens/s"] == "130 (120-140)"
    assert shown["llama.cpp, tokens/s"] == "60 (once) Q8_0 flash"
    assert shown["transformers, tokens/s"] == "-"
    assert shown["ratio"] == "2.17 (2.00-2.00)"


def test_tribody_beside_itself_has_a_column_and_empty_columns_go() -> None:
    itself = sample(ITSELF, 1, 40, weights="float16")
    (section,) = sections([*RECORDS, itself])
    assert "tribody itself, tokens/s" in section.headings
    assert "40 (once) float16" in section.lines[0]
    (section,) = sections(RECORDS)
    assert not {"transformers, tokens/s", "tribody itself, tokens/s"} & set(section.headings)
    assert len(section.headings) == len(section.lines[0])


def test_markdown_tables_have_one_cell_for_each_heading() -> None:
    text = markdown(["", "a"], [["x", "1"], ["y", "2"]])
    assert text == "|  | a |\n|---|---:|\n| x | 1 |\n| y | 2 |\n"


def test_json_lines_stand_alone() -> None:
    (line,) = json_lines(RECORDS, rows_of(RECORDS)).splitlines()
    row = json.loads(line)
    assert row["commit"] == "abc"
    assert row["ratio"] == pytest.approx(130 / 60)
    assert row["peer_tokens_per_s"] == {"llama.cpp Q8_0 flash": pytest.approx(60)}


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_block_in_readme_is_replaced_and_nothing_else(tmp_path, name) -> None:
    text = (ROOT / name).read_text("utf-8")
    copy = tmp_path / name
    copy.write_text(text, "utf-8")
    update_readme(copy, RECORDS, rows_of(RECORDS))
    changed = copy.read_text("utf-8")
    assert "| t | 130 (120-140) | 60 (once) Q8_0 flash | 2.17 (2.00-2.00) |" in changed
    assert BLOCK.sub("", changed) == BLOCK.sub("", text)


def test_a_readme_without_the_block_is_refused(tmp_path) -> None:
    path = tmp_path / "README.md"
    path.write_text("nothing here")
    with pytest.raises(ValueError, match="0 blocks"):
        update_readme(path, RECORDS, rows_of(RECORDS))
