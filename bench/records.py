"""A run's file of JSON lines: every measurement as it was made, from which the report is drawn.

Each line has a "record": "run" (the machine, versions, the load before the start), "engine" (a
loaded engine), "cell" (what a cell must read and multiply), "sample" (one timing), "limits" (what
the machine can do, measured in every round), "check" (do the engines compute the same model?),
"serve" (one load on the server).  A run that is killed leaves what it measured; a last line that
was cut is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Record = Mapping[str, object]
FILE = "samples.jsonl"


class RecordFile:
    """Appends; every record is on disk when `add` returns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self.records = read_records(self._path)

    def add(self, kind: str, content: Mapping[str, object]) -> None:
        record = {"record": kind, **content}
        # A line that was cut stays alone on its line.
        lead = "" if _ends_with_newline(self._path) else "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(lead + json.dumps(record) + "\n")
        self.records.append(record)


def read_records(path: Path) -> list[Record]:
    """What the file holds; [] when there is none."""
    if not path.exists():
        return []
    return list(_parsed(path.read_text("utf-8").splitlines()))


def _parsed(lines: Iterable[str]) -> Iterator[Record]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut off when the run was killed
        if isinstance(record, dict):
            yield record


def _ends_with_newline(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    return [record for record in records if record["record"] == kind]
