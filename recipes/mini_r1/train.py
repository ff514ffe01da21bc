"""Train mini-r1.  `python -m recipes.mini_r1.train --out FOLDER`; run it again to go on.

One step is one batch of examples of about equal length.  Everything that is drawn depends on the
seed and the position in the run alone, so a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

# One compiled matrix kernel per shape: the default cache of 1,024 is too small for the lengths.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from recipes.mini_r1 import tokenizer as mini_tokenizer
from recipes.mini_r1.generate import (
    TASKS,
    Item,
    Turn,
    held_out,
    lookup_example,
    short_example,
    solved,
)
from recipes.mini_r1.model import MiniR1, initialise
from recipes.mini_r1.muon import Muon
from recipes.mini_r1.shape import Shape

IGNORED = -100  # a label that is not learned
Sums = defaultdict[str, float]


@dataclass(frozen=True)
class Plan:
    """What fixes a run, besides the shape.  Fractions are of `tokens`."""

    seed: int = 1
    tokens: int = 28_000_000  # read in all, padding included
    batch_tokens: int = 4096
    pool_batches: int = 96  # drawn together, then sorted by length
    # From this fraction of the run on: look-ups up to this many tokens, and their share of the
    # batches.  Short ones first and often, until values are found; then the other tasks.
    curriculum: tuple[tuple[float, int, float], ...] = (
        (0.0, 112, 0.5),
        (0.2, 224, 0.4),
        (0.25, 512, 0.3),
        (0.3, 1100, 0.25),
    )
    questions: int = 6
    learning_rate: float = 4e-3  # of the matrices
    embedding_rate: float = 2e-3  # of embedding, head and norms
    router_rate: float = 5e-4
    weight_decay: float = 0.05
    warm_up: float = 0.01
    decay_from: float = 0.4
    mtp_every: int = 3  # steps: the module is trained in one of three
    mtp_weights: tuple[float, float] = (0.3, 0.1)  # before and after `decay_from`
    bias_speed: float = 1e-3
    compute: str = "bfloat16"


@dataclass
class Batch:
    """ids and labels (B, T); labels[:, t] is what stands at t if it is learned, else IGNORED."""

    kind: str
    ids: Tensor
    labels: Tensor


def encode(tokenizer: Tokenizer, examples: list[list[Turn]]) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of each example."""
    texts = [text for turns in examples for turn in turns for text in (turn.read, turn.learned)]
    encoded = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
    rows = []
    for turns in examples:
        ids: list[int] = []
        labels: list[int] = []
        for _ in turns:
            read, learned = next(encoded).ids, next(encoded).ids
            ids += read + learned
            labels += [IGNORED] * len(read) + learned
        rows.append((ids, labels))
    return rows


def room(length: int) -> int:
    """The padded length: few different ones, so that few kernels are compiled."""
    step = 32 if length <= 256 else 64 if length <= 512 else 128
    return -(-length // step) * step


def batches(rows: list[tuple[list[int], list[int]]], batch_tokens: int, kind: str) -> list[Batch]:
    """Examples sorted by length and cut into batches of about `batch_tokens`."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    made = []
    while rows:
        length = room(len(rows[0][0]))
        taken = [row for row in rows[: max(1, batch_tokens // length)] if len(row[0]) <= length]
        rows = rows[len(taken) :]
        ids = torch.full((len(taken), length), mini_tokenizer.PAD_ID)
        labels = torch.full((len(taken), length), IGNORED)
        for index, (row_ids, row_labels) in enumerate(taken):
            ids[index, : len(row_ids)] = torch.tensor(row_ids)
            labels[index, : len(row_labels)] = torch.tensor(row_labels)
        made.append(Batch(kind, ids, labels))
    return made


def draw_pool(plan: Plan, tokenizer: Tokenizer, index: int, done: float) -> list[Batch]:
    """The `index`th pool of batches, shuffled; `done` is the fraction of the run before it."""
    rng = Random(f"{plan.seed}/pool/{index}")
    _, longest, lookups = [stage for stage in plan.curriculum if stage[0] <= done][-1]
    shares = {"lookup": lookups, "short": 1 - lookups}
    made: list[Batch] = []
    for kind, share in shares.items():
        wanted = share * plan.pool_batches * plan.batch_tokens
        rows: list[tuple[list[int], list[int]]] = []
        while sum(len(row[0]) for row in rows) < wanted:
            examples = []
            for _ in range(256 if kind == "short" else 16):
                if kind == "short":
                    examples.append(short_example(rng))
                else:
                    # A third at full length: uniform in the logarithm would leave few there.
                    tokens = (
                        longest
                        if rng.random() < 0.33
                        else round(48 * (longest / 48) ** rng.random())
                    )
                    examples.append(lookup_example(rng, tokens, plan.questions))
            rows += encode(tokenizer, examples)
        whole = batches(rows, plan.batch_tokens, kind)
        # What is left over at a length makes small batches, which would weigh as much as full ones.
        made += [batch for batch in whole if batch.ids.numel() > plan.batch_tokens // 2]
    rng.shuffle(made)
    return made


def losses(model: MiniR1, batch: Batch, mtp_weight: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy per learned token of the trunk, and of the MTP module (0 if not wanted)."""
    hidden = model.trunk(batch.ids)
    targets = batch.labels[:, 1:]
    at = targets != IGNORED
    trunk = functional.cross_entropy(model.logits(hidden[:, :-1][at]).float(), targets[at])
    if not mtp_weight:
        return trunk, torch.zeros(())
    drafted = model.draft(hidden, batch.ids)
    targets = batch.labels[:, 2:]
    at = targets != IGNORED
    mtp = functional.cross_entropy(model.draft_logits(drafted[:, :-1][at]).float(), targets[at])
    return trunk, mtp


def optimizers(model: MiniR1, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the rest.  Each group's `peak` is its highest rate."""
    matrices, routers, others = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith(".gate.weight"):
            routers.append(parameter)
        elif parameter.dim() == 1 or "embed_tokens" in name or "lm_head" in name:
            others.append(parameter)
        else:
            matrices.append(parameter)
    made = [
        Muon(matrices, plan.learning_rate, weight_decay=plan.weight_decay),
        torch.optim.AdamW(
            [
                {"params": others, "lr": plan.embedding_rate},
                {"params": routers, "lr": plan.router_rate},
            ],
            betas=(0.9, 0.95),
            weight_decay=0.0,
        ),
    ]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


class Run:
    """A training run in a folder: log.jsonl, state.pt (to go on from) and the tokenizer."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        shape: Shape,
        prepare: Callable[[MiniR1], None] | None = None,
    ) -> None:
        """`prepare` changes the fresh model before the optimizers see it."""
        self.folder, self.plan = folder, plan
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer(shape.vocab_size)
        self.model = MiniR1(shape, getattr(torch, plan.compute))
        initialise(self.model, plan.seed)
        if prepare is not None:
            prepare(self.model)
        self.optimizers = optimizers(self.model, plan)
        self.step = self.tokens = self.pool = self.position = 0
        self.pool_done = 0.0  # the fraction of the run when the pool was drawn
        self.seconds = 0.0
        if not (folder / "run.json").exists():
            (folder / "run.json").write_text(json.dumps(_provenance(), indent=1) + "\n")
        state = folder / "state.pt"
        if state.exists():
            self._load(torch.load(state, weights_only=True))

    def _tokenizer(self, vocab_size: int) -> Tokenizer:
        path = self.folder / "tokenizer.json"
        if not path.exists():
            made = mini_tokenizer.train(_corpus(self.plan.seed), vocab_size)
            made.save(str(path), pretty=False)
        return Tokenizer.from_file(str(path))

    def _load(self, state: dict[str, Any]) -> None:
        if state["plan"] != json.dumps(asdict(self.plan)):
            raise SystemExit(f"{self.folder}: holds a run of another plan; give another --out")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.pool, self.position = state["at"]
        self.pool_done, self.seconds = state["pool_done"], state["seconds"]

    def save(self) -> None:
        state = {
            "plan": json.dumps(asdict(self.plan)),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "at": [self.step, self.tokens, self.pool, self.position],
            "pool_done": self.pool_done,
            "seconds": self.seconds,
        }
        torch.save(state, self.folder / "state.new")
        os.replace(self.folder / "state.new", self.folder / "state.pt")

    def rate(self) -> float:
        """The learning rate's fraction of its peak: up, level, then down to nothing."""
        plan, done = self.plan, self.tokens / self.plan.tokens
        fall = (1 - done) / (1 - plan.decay_from)
        return max(0.0, min(done / plan.warm_up + 0.01, 1.0, fall))

    def train(self, until_step: int | None = None) -> None:
        """To the end of the plan (or to a step), saving every few minutes."""
        pool: list[Batch] = []
        sums, counts = Sums(float), Sums(float)
        saved = since = time.monotonic()
        logged = self.seconds
        while self.tokens < self.plan.tokens and self.step != until_step:
            done = self.tokens / self.plan.tokens
            if not pool:
                if self.position == 0:
                    self.pool_done = done
                pool = draw_pool(self.plan, self.tokenizer, self.pool, self.pool_done)
            mtp_weight = self.plan.mtp_weights[done >= self.plan.decay_from]
            mtp_weight *= self.step % self.plan.mtp_every == 0
            self._step(pool[self.position], mtp_weight, sums, counts)
            self.position += 1
            if self.position == len(pool):
                self.pool, self.position, pool = self.pool + 1, 0, []
            if self.step % 50 == 0:
                since = self._clock(since)
                self._log({key: sums[key] / counts[key] for key in sums}, self.seconds - logged)
                logged = self.seconds
                sums.clear()
                counts.clear()
            if time.monotonic() - saved > 180:
                since = self._clock(since)
                self.save()
                saved = time.monotonic()
        self._clock(since)
        self.save()

    def _clock(self, since: float) -> float:
        """Add the time since `since` to the run's; returns now."""
        now = time.monotonic()
        self.seconds += now - since
        return now

    def _step(self, batch: Batch, mtp_weight: float, sums: Sums, counts: Sums) -> None:
        trunk, mtp = losses(self.model, batch, mtp_weight)
        (trunk + mtp_weight * mtp).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        sums["norm"] += float(norm)
        counts["norm"] += 1
        rate = self.rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for router in self.model.routers():
            if router.load.any():  # the MTP module's rests in most steps
                sums["uneven"] += float(router.load.max() / router.load.mean())
                counts["uneven"] += 1
                router.update_bias(self.plan.bias_speed)
        self.step += 1
        self.tokens += batch.ids.numel()
        for name, value in ((batch.kind, trunk), ("mtp", mtp)):
            sums[name] += value.item()
            counts[name] += name != "mtp" or mtp_weight > 0

    def _log(self, means: dict[str, float], seconds: float) -> None:
        line: dict[str, object] = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds),
            "step_seconds": round(seconds / 50, 3),
            **{key: round(value, 4) for key, value in means.items()},
        }
        if self.step % 500 == 0:
            line["exact"] = self.exact()
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    @torch.no_grad()
    def exact(self, per_task: int = 24) -> dict[str, float]:
        """Held-out items of which every learned token is the most likely one, by task."""
        right: dict[str, list[int]] = {task: [] for task in TASKS}
        for task in TASKS:
            items = [item for item in _probe(per_task) if item.task == task]
            examples = [solved(item) for item in items]
            for batch in batches(encode(self.tokenizer, examples), self.plan.batch_tokens, task):
                guess = self.model.logits(self.model.trunk(batch.ids)).argmax(-1)[:, :-1]
                targets = batch.labels[:, 1:]
                wrong = (guess != targets) & (targets != IGNORED)
                right[task] += (~wrong.any(1)).int().tolist()
        for router in self.model.routers():
            router.load.zero_()
        return {task: round(sum(hits) / len(hits), 3) for task, hits in right.items()}


def _provenance() -> dict[str, str]:
    """Which recipe ran where."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True)
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    name = names[0] if names else platform.processor()
    return {
        "commit": (commit.stdout.strip() or "unknown") + (" and changes" if changed.stdout else ""),
        "machine": f"{torch.get_num_threads()} cores, {name}",
        "torch": str(torch.__version__),
    }


@cache
def _probe(per_task: int) -> tuple[Item, ...]:
    return tuple(held_out(0, per_task, "held_out"))


def _corpus(seed: int) -> list[str]:
    """Text that the tokenizer's merges are learned from: prompts and answers, no control tokens."""
    rng = Random(f"{seed}/corpus")
    texts = []
    for index in range(20_000):
        turns = short_example(rng) if index % 10 else lookup_example(rng, 200, 2)
        for turn in turns:
            text = turn.read + turn.learned
            for control in mini_tokenizer.SPECIAL:
                text = text.replace(control, "\x00")
            texts += [part for part in text.split("\x00") if part]
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=Plan.tokens)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--learning-rate", type=float, default=Plan.learning_rate)
    arguments = parser.parse_args()
    plan = Plan(seed=arguments.seed, tokens=arguments.tokens, learning_rate=arguments.learning_rate)
    Run(arguments.out, plan, Shape()).train()


if __name__ == "__main__":
    main()
