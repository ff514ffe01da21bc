"""`tribody tune`: the settings under which a model is fastest on this machine, and why."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import msgspec
from rich.console import Console
from rich.table import Table

from tribody.cli.bench import Bars
from tribody.cli.engine_options import (
    DEFAULT_MODEL,
    EngineOptions,
    engine_config,
    require_native,
)
from tribody.cli.environment import Environment, read_environment
from tribody.cli.logs import start_logging
from tribody.cli.models import fetch
from tribody.core.clock import MonotonicClock
from tribody.core.config import EngineConfig, default_tuning_dir
from tribody.core.errors import BadConfig
from tribody.engine.build import BuiltEngine, build
from tribody.engine.tuned import Gain, Tuning, in_words, save, this_machine
from tribody.loading import bundled
from tribody.quality.held_out import bundled_file, choose, read_items
from tribody.quality.prose import text_file
from tribody.text.chat_template import chat_template_for
from tribody.tuning.autotune import Bench, Goal, Search
from tribody.tuning.space import space
from tribody.tuning.workloads import Workloads

BUSY = 0.05  # of the time; above this a result is that of a busy machine
PIPED_WIDTH = 120
NUM_TASKS = 26  # two of each of mini-r1's; each is answered in some 40 tokens
NUM_PARTS = 2  # of a --text
PROMPT_TOKENS = 128  # of each part
PASSAGE = (
    "The harbour of Port Allen was built in 1871 by a company of stone masons from the north. "
    "For forty years it was the only safe landing on the western coast, and every ship that "
    "carried sugar stopped there. After the great storm of 1912 the outer wall had fallen into "
    "the sea, and the company, which had lost its ships, did not rebuild it."
)
QUESTIONS = (
    "Explain in a few sentences why the sea looks blue and why it is salty.",
    f"Copy the following text exactly, then summarise it in one sentence.\n\n{PASSAGE}",
)


@dataclass(frozen=True)
class TuneOptions:
    """As typed by the user."""

    model: str | None
    goal: str
    seconds: float
    text: Path | None
    as_json: bool


def run(options: TuneOptions, engine: EngineOptions) -> None:
    """Raises: BadConfig, DownloadFailed, BadModel, EngineFailed."""
    started = time.monotonic()
    environment = read_environment(os.environ)
    start_logging(environment.log_level or "warning")
    goal = _goal(options.goal)
    require_native()
    path = fetch(options.model or environment.model or DEFAULT_MODEL, environment)
    config = engine_config(path, engine, environment)
    folder = default_tuning_dir(environment.cache_dir)
    with Bars(environment, quiet=options.as_json and not sys.stdout.isatty()) as bars:
        bars.begin("loading", 1)
        built = build(config)
        work = Workloads(built, config, prompts(built, config, options.text))
        bench = Bench(work.seconds, work.same_results, work.unit)
        search = Search(bench, space(config, built), goal, MonotonicClock(), bars)
        found = search.run(options.seconds - (time.monotonic() - started))
    if not any(outcome.tried for outcome in found.outcomes):
        raise BadConfig(
            f"--seconds {options.seconds:g}: one timing of this model takes so long here that "
            "nothing could be tried; give it more"
        )
    tuning = Tuning(
        machine=this_machine(built.ops),
        model=built.info.model_id,
        model_key=built.model_key,
        goal=goal,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        search_seconds=round(time.monotonic() - started, 1),
        disturbed=round(work.disturbed, 3),
        settings=found.settings,
        phases=found.phases,
        outcomes=found.outcomes,
    )
    try:
        written = save(folder, tuning)
    except OSError as error:
        raise BadConfig(f"{folder}: cannot be written: {error.strerror}") from error
    if options.as_json:
        print(msgspec.json.format(msgspec.json.encode(tuning), indent=2).decode())
    else:
        _print(tuning, written, environment)


def _goal(name: str) -> Goal:
    for known in get_args(Goal):
        if name == known:
            return known  # type: ignore[no-any-return]  # get_args has no types
    raise BadConfig(f"--for {name!r} is not known; choose one of {', '.join(get_args(Goal))}")


def prompts(built: BuiltEngine, config: EngineConfig, text: Path | None) -> list[list[int]]:
    """What the model goes on from: drafts are right as often as the text is predictable, so the
    bundled reasoner gets its own tasks, and others a question and a quotation, or --text."""
    if text is not None:
        ids = built.tokenizer.encode(text_file(text).text, add_special_tokens=True)
        if len(ids) < NUM_PARTS:
            raise BadConfig(f"--text {text}: is too short")
        size = min(PROMPT_TOKENS, len(ids) // NUM_PARTS)
        return [ids[i * size : (i + 1) * size] for i in range(NUM_PARTS)]
    questions: tuple[str, ...] = QUESTIONS
    items = bundled_file()
    if Path(config.model_path).parent == bundled.root() and items is not None:
        short = [item for item in read_items(items) if len(item.prompt) < 400]
        questions = tuple(item.prompt for item in choose(short, NUM_TASKS))
    template = chat_template_for(built.tokenizer_source, built.info.model_type)
    if template is None:
        return [built.tokenizer.encode(q, add_special_tokens=True) for q in questions]
    texts = [template.prompt([{"role": "user", "content": q}], thinking=None) for q in questions]
    return [built.tokenizer.encode(text, add_special_tokens=False) for text in texts]


# ---- what it says


def _print(tuning: Tuning, path: Path, environment: Environment) -> None:
    console = Console(
        no_color=environment.no_color or None,
        highlight=False,
        width=None if sys.stdout.isatty() else PIPED_WIDTH,
    )
    machine = tuning.machine
    console.out(
        f"{tuning.model} on {machine.cpu}, {machine.cores} cores, for {tuning.goal}, "
        f"in {tuning.search_seconds:.0f} s"
    )
    table = Table(box=None)
    for column in ("tunable", "default", "chosen", "time saved", "why"):
        table.add_column(column)
    for outcome in tuning.outcomes:
        default, chosen = str(outcome.default), str(outcome.chosen)
        table.add_row(outcome.name, default, chosen, show_gain(outcome.gain), outcome.why)
    console.print(table)
    for name, phase in tuning.phases.items():
        console.out(
            f"{name}: {1e3 * phase.default_seconds:.3f} -> {1e3 * phase.tuned_seconds:.3f} ms "
            f"{phase.unit}, {show_gain(phase.gain)} saved"
        )
    if tuning.settings:
        console.out(f"serve, chat, generate and bench use: {in_words(tuning.settings)}")
    else:
        console.out("the defaults are as fast as anything that was tried; they stay")
    console.out(f"kept in {path}")
    if tuning.disturbed > BUSY:
        console.out(
            f"other work had the core for {tuning.disturbed:.0%} of the time: tune again when the "
            "machine is as busy as it will be in use"
        )


def show_gain(gain: Gain | None) -> str:
    """`+4.1 % (3.2 to 5.0)`."""
    if gain is None:
        return ""
    return f"{gain.share:+.1%} ({100 * gain.low:.1f} to {100 * gain.high:.1f})"
