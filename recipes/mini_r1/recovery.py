"""What training through a format recovers: right answers beside plain rounding of the same model.

    python -m recipes.mini_r1.recovery --base src/tribody/bundled/mini-r1 \\
        --trained runs/mini-r1-w4m32/checkpoint --format w4m32

Greedy answers to the held-out items, in float32 and in the format, before and after training; and,
with --packed, from a file that `tribody quantize` made.  Every row is paired with the base model's
float32 answers on the same items: the difference with Newcombe's 95 % interval, and which items
changed.  `recovery` is the share of right answers over the base model's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tribody.core.config import EngineConfig
from tribody.loading import bundled
from tribody.quality.answers import Answer, answer_items, template_of
from tribody.quality.held_out import Item, choose, read_items
from tribody.quality.logits import REFERENCE, LoadedModel, Precision, parse_precision
from tribody.quality.tasks import flips

MAX_TOKENS = 300  # of an answer, as in the model card


class Silent:
    """A Watcher that shows nothing."""

    def begin(self, stage: str, total: int) -> None: ...

    def advance(self, count: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Subject:
    """A model at a precision, by the name that its row has."""

    name: str
    folder: Path
    precision: Precision


def answers(subject: Subject, items: Sequence[Item]) -> list[Answer]:
    """Greedy, without a draft module, which would change no answer."""
    config = EngineConfig(
        model_path=str(subject.folder), kv_budget_bytes=1 << 28, speculation="off"
    )
    model = LoadedModel(config, subject.precision)
    template = template_of(model)
    assert template is not None
    return answer_items(model, template, items, MAX_TOKENS, Silent())


def row(
    name: str, items: Sequence[Item], base: Sequence[Answer], own: Sequence[Answer]
) -> dict[str, object]:
    right, base_right = (sum(answer.right for answer in some) for some in (own, base))
    (changed,) = flips(items, base, own)
    return {
        "name": name,
        "items": len(items),
        "right": right,
        "recovery": right / base_right,
        **msgspec.to_builtins(changed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", type=Path, default=bundled.root() / "mini-r1")
    parser.add_argument("--trained", type=Path, required=True, help="the checkpoint qat wrote")
    parser.add_argument("--format", default="w4m32")
    parser.add_argument("--packed", type=Path, help="a .tribody file of the base model")
    parser.add_argument("--items", type=int, default=1200, help="of the held-out split")
    arguments = parser.parse_args()
    every = read_items(bundled.root() / "held_out.jsonl.gz")
    items = choose([item for item in every if item.split == "held_out"], arguments.items)
    rounded = parse_precision(arguments.format)
    subjects = [
        Subject("base float32", arguments.base, REFERENCE),
        Subject(f"base {arguments.format}", arguments.base, rounded),
        Subject("trained float32", arguments.trained, REFERENCE),
        Subject(f"trained {arguments.format}", arguments.trained, rounded),
    ]
    if arguments.packed is not None:
        packed = parse_precision(str(arguments.packed))
        subjects.append(Subject(arguments.packed.name, arguments.base, packed))
    base: list[Answer] = []
    for subject in subjects:
        own = answers(subject, items)
        base = base or own
        print(json.dumps(row(subject.name, items, base, own)), flush=True)


if __name__ == "__main__":
    main()
