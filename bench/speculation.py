"""What speculative decoding brings: the same requests with and without it, in turns.

    .venv/bin/python bench/speculation.py [--rounds N] [--threads N] [--only TEXT] [--json FILE]

Workloads: mini-r1 thinking about held-out items, one at a time and sixteen at once; SmolLM2
asked to summarise and to quote texts, one at a time; SmolLM2 going on from random
tokens, sixteen at once, where nothing can be guessed.  Greedy.  A round runs every mode on the same
requests, its order turning round by round; rates are generated tokens by seconds of steps, prefill
included, medians over the rounds after a warm-up.  Every mode keeps its engine, and with it what
its policy has learned, as a server does.  The answers of all modes are compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tribody.core.config import EngineConfig
from tribody.core.request import Request, SamplingParams
from tribody.engine.build import BuiltEngine, build
from tribody.loading import bundled
from tribody.loading.download import default_cache_dir
from tribody.loading.hub import resolve
from tribody.quality.held_out import bundled_file, choose, read_items
from tribody.text.chat_template import chat_template_for

MODES: dict[str, dict[str, object]] = {
    "off": {"speculation": "off"},
    "mtp 1": {"speculation": "mtp", "max_drafts": 1},
    "mtp 3": {"speculation": "mtp", "max_drafts": 3},
    "mtp": {"speculation": "mtp"},
    "ngram": {"speculation": "ngram"},
    "auto": {"speculation": "auto"},
}
NUM_ITEMS = 26  # two of each of mini-r1's tasks
PASSAGES = (
    "The harbour of Port Allen was built in 1871 by a company of stone masons from the north. "
    "For forty years it was the only safe landing on the western coast, and every ship that "
    "carried sugar stopped there. After the great storm of 1912 the outer wall had fallen into "
    "the sea, and the company, which had lost its ships, did not rebuild it. Today the inner "
    "basin belongs to the fishing boats, and the old warehouse is a museum.",
    "Mrs Adler keeps eleven hives of bees on the roof of the library in Graz. In June 2019 a swarm "
    "left the roof and settled on a bicycle in the market square. Two policemen guarded the "
    "bicycle until she came with a box. Since then the town pays her a small fee every summer, "
    "and school classes visit the roof to learn how honey is made.",
    "The night train from Lyon to Turin was cancelled in 1998 because too few people used it. A "
    "group of students wrote to the ministry and asked for the train to come back. In 2024 the "
    "ministry agreed to a trial of two years. The first train left with 212 passengers, more than "
    "the old train had carried in a week.",
)
QUESTIONS = (
    "{}\n\nSummarise this text in one sentence. Then repeat the whole text, word for word.",
    "Text: {}\n\nWrite a one-sentence summary of the text, then quote the text in full between "
    "quotation marks.",
    "Copy the following text exactly, then summarise it in one sentence.\n\n{}",
)


@dataclass(frozen=True)
class Workload:
    """Requests that are under way `at_once` at a time."""

    title: str
    model: Path
    prompts: list[list[int]]
    at_once: int
    max_tokens: int
    ignore_eos: bool
    modes: tuple[str, ...]


class Subject:
    """One engine in one mode."""

    def __init__(self, model: Path, mode: str, threads: int) -> None:
        settings = {"num_threads": threads, "kv_budget_bytes": 1 << 28, "max_running": 16}
        self.built = build(EngineConfig(model_path=str(model), **settings, **MODES[mode]))  # type: ignore[arg-type]
        self._numbers = itertools.count()

    def run(self, work: Workload) -> tuple[float, list[list[int]]]:
        """Tokens per second of the whole workload, and the answers."""
        engine = self.built.engine
        answers: dict[str, list[int]] = {}
        waiting = [self._request(work, prompt) for prompt in work.prompts]
        before, under_way = engine.stats(), 0
        while waiting or engine.has_work():
            while waiting and under_way < work.at_once:
                request = waiting.pop(0)
                answers[request.id] = []
                engine.submit(request)
                under_way += 1
            for event in engine.step():
                answers[event.request_id] += event.token_ids
                under_way -= event.usage is not None
        after = engine.stats()
        tokens = after.generated_tokens - before.generated_tokens
        return tokens / (after.busy_seconds - before.busy_seconds), list(answers.values())

    def _request(self, work: Workload, prompt: list[int]) -> Request:
        number = next(self._numbers)
        sampling = SamplingParams(
            max_tokens=work.max_tokens, temperature=0.0, ignore_eos=work.ignore_eos
        )
        return Request(
            id=f"{number}",
            prompt_token_ids=prompt,
            sampling=sampling,
            cache_salt=f"{number}",  # nothing is found in the prefix cache
        )


def chat(built: BuiltEngine, question: str) -> list[int]:
    template = chat_template_for(built.tokenizer_source, built.info.model_type)
    assert template is not None
    text = template.prompt([{"role": "user", "content": question}], thinking=None)
    return built.tokenizer.encode(text, add_special_tokens=False)


def workloads(threads: int) -> list[Workload]:
    mini, smollm2 = (
        bundled.locate("mini-r1"),
        resolve("smollm2", cache_dir=default_cache_dir(os.environ)),
    )
    path = bundled_file()
    assert path is not None
    items = [item for item in read_items(path) if len(item.prompt) < 400]
    reader = Subject(mini, "off", threads).built
    thinking = [chat(reader, item.prompt) for item in choose(items, NUM_ITEMS)]
    reader = Subject(smollm2, "off", threads).built
    quoting = [chat(reader, question.format(text)) for question in QUESTIONS for text in PASSAGES]
    draw = random.Random(1)
    noise = [[draw.randrange(reader.info.vocab_size) for _ in range(128)] for _ in range(16)]
    all_modes, two = tuple(MODES), ("off", "auto")
    return [
        Workload("mini-r1 thinks, 1 at once", mini, thinking, 1, 400, False, all_modes),
        Workload("mini-r1 thinks, 16 at once", mini, thinking * 2, 16, 400, False, two),
        Workload("SmolLM2 quotes, 1 at once", smollm2, quoting, 1, 160, False, two),
        Workload("SmolLM2 on noise, 16 at once", smollm2, noise, 16, 96, True, two),
    ]


def measure(work: Workload, rounds: int, threads: int) -> list[dict[str, object]]:
    subjects = {mode: Subject(work.model, mode, threads) for mode in work.modes}
    rates: dict[str, list[float]] = {mode: [] for mode in work.modes}
    for round_index in range(rounds + 1):
        order = work.modes if round_index % 2 else work.modes[::-1]
        answers = {}
        for mode in order:
            rate, answers[mode] = subjects[mode].run(work)
            if round_index:
                rates[mode].append(rate)
        assert all(found == answers["off"] for found in answers.values()), "an answer changed"
    base = statistics.median(rates["off"])
    rows: list[dict[str, object]] = []
    for mode in work.modes:
        stats = subjects[mode].built.engine.stats()
        rows.append(
            {
                "workload": work.title,
                "mode": mode,
                "tokens_per_second": round(statistics.median(rates[mode]), 1),
                "least": round(min(rates[mode]), 1),
                "most": round(max(rates[mode]), 1),
                "speed_up": round(statistics.median(rates[mode]) / base, 3),
                "drafted": stats.drafted_tokens,
                "accepted": stats.accepted_tokens,
                "tokens_per_step": round(stats.generated_tokens / stats.steps, 2),
                "threads": threads,
                "rounds": rounds,
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="after the warm-up")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", help="workloads whose title holds this text")
    parser.add_argument("--json", type=Path, help="append JSON lines")
    options = parser.parse_args(arguments)
    table = Table(box=None)
    for column in ("workload", "mode", "tokens/s", "range", "speed-up", "drafts right"):
        table.add_column(column)
    chosen = [work for work in workloads(options.threads) if options.only in work.title]
    for work in chosen:
        for row in measure(work, options.rounds, options.threads):
            right = f"{row['accepted']} of {row['drafted']}"
            spread = f"{row['least']}-{row['most']}"
            cells = (work.title, row["mode"], row["tokens_per_second"], spread, row["speed_up"])
            table.add_row(*map(str, cells), right)
            if options.json:
                with options.json.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
