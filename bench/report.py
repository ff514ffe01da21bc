"""One report of a run: tables in the terminal, and a page with tables and pictures in its folder.

    .venv-bench/bin/python bench/report.py [FOLDER]      the newest run when none is named

Everything is drawn from the folder's samples.jsonl, so a run that was killed has its report too.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import plots
import tables
from machine import ROOT
from measurements import rows_of, serve_rows_of
from records import FILE, Record, read_records

RESULTS = ROOT / "bench" / "results"
PAGE = "report.md"
ROWS = "rows.jsonl"
NOTE = (
    "Medians, smallest and largest in brackets; rounds are interleaved, engines in turning order. "
    "`ratio` is tribody's median over the best peer's, its brackets the rounds' own ratios. "
    "llama.cpp's faster attention path is shown, transformers' faster dtype. "
    "`of bandwidth`: the bytes that a step must read, against what the machine reads from a buffer "
    "of the weights' size; `of int8`: products with weights against the rate of one large product "
    "in tribody's own int8 kernel, a lower bound of what the machine can do. "
    "How to read it: docs/bench.md."
)


def newest() -> Path | None:
    """The folder of the run that was begun last."""
    found = [path.parent for path in RESULTS.glob(f"*/{FILE}")]
    return max(found, key=lambda folder: folder.name, default=None)


def folder_of(options: argparse.Namespace) -> Path:
    """Raises: SystemExit when the folder cannot be used as the options ask."""
    goes_on = options.resume or options.report_only
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%SZ")
    folder: Path | None = options.out or (newest() if goes_on else RESULTS / stamp)
    if folder is None or (goes_on and not (folder / FILE).exists()):
        sys.exit(f"there is no run in {folder or RESULTS}")
    if not goes_on and (folder / FILE).exists():
        sys.exit(f"{folder} holds a run: add --resume to go on with it, or name another folder")
    return folder


def write(folder: Path, console: Console) -> str:
    """Draws everything; returns the rows as JSON lines."""
    records = read_records(folder / FILE)
    rows, served = rows_of(records), serve_rows_of(records)
    pictures = plots.draw(folder, rows, served)
    (folder / PAGE).write_text(page(records, pictures), "utf-8")
    lines = tables.json_lines(records, rows)
    (folder / ROWS).write_text(lines, "utf-8")
    tables.print_tables(records, console)
    console.print(f"report: {folder / PAGE}", soft_wrap=True, highlight=False)
    return lines


def page(records: Sequence[Record], pictures: dict[str, list[str]]) -> str:
    parts = ["# tribody beside its peers", tables.caption(records), NOTE]
    parts += [f"* {line}" for line in tables.check_lines(records)]
    for section in tables.sections(records):
        parts += [f"## {section.title}", tables.markdown(section.headings, section.lines)]
        parts += [f"![{section.title}]({name})" for name in pictures.get(section.title, [])]
    return "\n\n".join(parts) + "\n"


def update_readmes(folder: Path) -> None:
    records = read_records(folder / FILE)
    for name in ("README.md", "README.zh-CN.md"):
        tables.update_readme(ROOT / name, records, rows_of(records))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=newest())
    options = parser.parse_args()
    if options.folder is None or not (options.folder / FILE).exists():
        print(f"no run with a {FILE} is in {options.folder or RESULTS}", file=sys.stderr)
        return 1
    write(options.folder, Console(width=160))
    return 0


if __name__ == "__main__":
    sys.exit(main())
