"""Held-out files for tests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tribody.quality.held_out import Item


def item(**fields: str | int) -> Item:
    values: dict[str, str | int] = {
        "task": "add",
        "split": "held_out",
        "language": "en",
        "prompt": "What is 17 + 25?",
        "answer": "42",
        "thinking": "7 + 5 = 12, carry 1; 1 + 2 + 1 = 4.",
    }
    return Item(**(values | fields))  # type: ignore[arg-type]


def write_lines(path: Path, *lines: str) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write("".join(line + "\n" for line in lines))
    return path


def line(given: Item) -> str:
    return json.dumps({name: getattr(given, name) for name in given.__struct_fields__})


def sample() -> list[Item]:
    """Two splits, two tasks, three items each."""
    return [
        item(task=task, split=split, prompt=f"{task} {number}?", answer=answer)
        for split in ("held_out", "longer")
        for task, answer in (("add", "42"), ("call", '{"name": "f"}'))
        for number in range(3)
    ]
