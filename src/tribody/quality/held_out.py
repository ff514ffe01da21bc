"""Held-out items: questions with one right answer, read from a gzip JSON-lines file.

One line is one item:

    {"task": "add", "split": "held_out", "language": "en", "prompt": "What is 17 + 25?",
     "answer": "42", "thinking": "..."}

`split` "held_out" is drawn like the training set and never occurs in it; "longer" holds instances
longer than any trained on.  `thinking` is the reference chain of thought; scoring does not use it.
`tokens`, where given, is the length that the prompt was made for; it is only kept.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

import tribody
from tribody.core.errors import BadConfig

Split = Literal["held_out", "longer"]
SPLITS: tuple[Split, ...] = ("held_out", "longer")

CALL = "call"
# The task whose answer is a JSON object; there the order of keys and the spacing do not matter.


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question.  See the module for its fields."""

    task: str
    split: Split
    language: Literal["en", "zh"]
    prompt: str
    answer: str
    thinking: str
    tokens: int = 0


def bundled_file() -> Path | None:
    """The file that comes with tribody, or None in a build without it."""
    path = Path(tribody.__file__).parent / "bundled" / "held_out.jsonl.gz"
    return path if path.is_file() else None


def read_items(path: Path) -> list[Item]:
    """Every item of the file, in its order.  Raises: BadConfig that names the line."""
    items = []
    for number, line in _lines(path):
        try:
            item = msgspec.json.decode(line, type=Item)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadConfig(
                f"{path} line {number} is not a held-out item: {error}; a line has task, split, "
                "language, prompt, answer and thinking (docs/quality.md)"
            ) from error
        if item.task == CALL and parse_call(item.answer) is None:
            raise BadConfig(f"{path} line {number}: the answer of a {CALL!r} item must be a JSON"
                            f" object; it is {item.answer[:80]!r}")  # fmt: skip
        items.append(item)
    if not items:
        raise BadConfig(f"{path} holds no items; name another file with --held-out")
    return items


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank."""
    try:
        with gzip.open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise BadConfig(f"{path} cannot be read as a gzip JSON-lines file: {error}") from error


def spread(items: list[Item]) -> list[int]:
    """Indices of the items, every split and task in turn, so that any first part is even."""
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for index, item in enumerate(items):
        ranked.append((seen[item.split, item.task], index))
        seen[item.split, item.task] += 1
    return [index for _rank, index in sorted(ranked)]


def choose(items: list[Item], count: int) -> list[Item]:
    """`count` of the items (all if fewer), spread evenly over splits and tasks, in file order.

    A larger count keeps a smaller one's items.
    """
    return [items[index] for index in sorted(spread(items)[:count])]


def is_right(item: Item, content: str) -> bool:
    """Exact match of the stripped answer; for a call, equality of the two JSON objects."""
    given = content.strip()
    if item.task != CALL:
        return given == item.answer.strip()
    call = parse_call(given)
    return call is not None and call == parse_call(item.answer)


def parse_call(text: str) -> bytes | None:
    """A JSON object with its keys in one order, so that bytes compare; None if it is none.

    Bytes and not values, because Python finds 1, 1.0 and true equal.
    """
    try:
        value = msgspec.json.decode(text, type=dict[str, object])
        return msgspec.json.encode(value, order="sorted")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
