"""Rows on a terminal, and records as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from tribody.cli.environment import read_environment

PIPED_WIDTH = 1000  # rows that another program reads are not wrapped


def console() -> Console:
    """For text that others have chosen: nothing in it is markup."""
    return Console(
        no_color=read_environment(os.environ).no_color or None,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if sys.stdout.isatty() else PIPED_WIDTH,
    )


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns whose name begins with ">" are numbers, flush right."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        is_number = column.startswith(">")
        table.add_column(
            column.removeprefix(">"),
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    console().print(table)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """`name  value`, those with a value."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _value in shown), default=0)
    for name, value in shown:
        print(f"{name:{width}}  {printable(value)}")


def print_json(value: object) -> None:
    encoded = msgspec.json.encode(value, order="deterministic")
    print(msgspec.json.format(encoded, indent=2).decode())


def printable(text: str) -> str:
    """Without what could move the cursor."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
