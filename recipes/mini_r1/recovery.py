"""What a format, a mixture or training through a format leaves of the right answers.

    python -m recipes.mini_r1.recovery --format w8g32 --format mini-r1.tribody --items 0
    python -m recipes.mini_r1.recovery --format w4m32 --trained runs/mini-r1-w4m32/checkpoint

Greedy answers to the held-out items: the shipped model in float32 and in each --format, a number
format or a file that `tribody quantize` made of it; with --trained, what `recipes.mini_r1.qat`
wrote, in float32 and in each of them too.  Every row is paired with the float32 answers of the
shipped model on the same items: the difference with Newcombe's 95 % interval, and which items
changed.  `recovery` is the share of right answers over that model's.  On the reference solutions of
--tokens tokens: the mean KL divergence to the shipped model in float32, and the loss.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tribody.core.config import EngineConfig
from tribody.loading import bundled
from tribody.quality.answers import Answer, answer_items, template_of
from tribody.quality.chunks import task_chunks
from tribody.quality.distribution import compare
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


def load(subject: Subject, threads: int) -> LoadedModel:
    """Without a draft module, which would change no answer."""
    config = EngineConfig(
        model_path=str(subject.folder),
        kv_budget_bytes=1 << 28,
        speculation="off",
        num_threads=threads,
    )
    return LoadedModel(config, subject.precision)


class Recovery:
    """Everything is compared with the shipped model in float32."""

    def __init__(self, items: Sequence[Item], folder: Path, threads: int, tokens: int) -> None:
        self.items, self.threads = items, threads
        self.base = load(Subject("base", folder, REFERENCE), threads)
        template = template_of(self.base)
        assert template is not None
        self.template = template
        self.chunks = task_chunks(self.base, template, list(items), tokens)
        self.expected: list[Answer] = []

    def row(self, subject: Subject) -> dict[str, object]:
        model = load(subject, self.threads)
        own = answer_items(model, self.template, self.items, MAX_TOKENS, Silent())
        self.expected = self.expected or own  # the first subject is the base itself
        right, base_right = (sum(answer.right for answer in a) for a in (own, self.expected))
        (changed,) = flips(self.items, self.expected, own)
        distance = compare(self.base, model, "tasks", self.chunks, Silent())
        return {
            "name": subject.name,
            "items": len(self.items),
            "right": right,
            "recovery": right / base_right,
            **msgspec.to_builtins(changed),
            "tokens": distance.num_predicted_tokens,
            "kl_mean_nats": distance.kl_mean_nats,
            "kl_mean_interval_nats": msgspec.to_builtins(distance.kl_mean_interval_nats),
            "solution_nats_per_token": math.log(distance.perplexity),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", type=Path, default=bundled.root() / "mini-r1")
    parser.add_argument("--trained", type=Path, help="the checkpoint qat wrote")
    parser.add_argument("--format", action="append", default=[])
    parser.add_argument("--items", type=int, default=1200, help="of the held-out split; 0: all")
    parser.add_argument("--tokens", type=int, default=65536, help="of solutions to compare on")
    parser.add_argument("--threads", type=int, default=0, help="default: physical cores")
    arguments = parser.parse_args()
    every = read_items(bundled.root() / "held_out.jsonl.gz")
    held_out = [item for item in every if item.split == "held_out"]
    items = choose(held_out, arguments.items or len(held_out))
    folders = {"base": arguments.base, "trained": arguments.trained}
    subjects = [
        Subject(f"{name} {precision.name}", folder, precision)
        for name, folder in folders.items()
        if folder is not None
        for precision in (REFERENCE, *map(parse_precision, arguments.format))
        if name == "base" or precision.packed is None
    ]
    run = Recovery(items, arguments.base, arguments.threads, arguments.tokens)
    for subject in subjects:
        print(json.dumps(run.row(subject)), flush=True)


if __name__ == "__main__":
    main()
