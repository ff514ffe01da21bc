"""The held-out items that ship with tribody, for `tribody bench quality`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from recipes.mini_r1.generate import Item, held_out, held_out_lookups

SEED = 2026  # training's own probes have another
PER_TASK, LONGER_PER_TASK = 270, 40
AT_LONGEST = 200  # single-hop look-ups at the longest trained context
LONGEST, AIM = 1024, 1080  # their prompts have at least LONGEST tokens
AT_LONGEST_TASK = f"lookup at {LONGEST}"


def items() -> Iterator[Item]:
    """All of them, the same whenever they are drawn."""
    yield from held_out(SEED, PER_TASK, "held_out")
    for item in held_out_lookups(SEED, AT_LONGEST, AIM):
        yield replace(item, task=AT_LONGEST_TASK)
    yield from held_out(SEED, LONGER_PER_TASK, "longer")


def write(path: Path, drawn: list[Item]) -> None:
    """As gzip JSON lines; equal items give equal bytes."""
    text = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in drawn)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
