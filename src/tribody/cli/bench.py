"""`tribody bench quality`: what number formats cost a model in answers and in distributions."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tribody.cli.engine_options import (
    DEFAULT_MODEL,
    EngineOptions,
    engine_config,
    require_native,
)
from tribody.cli.environment import Environment, read_environment
from tribody.cli.logs import start_logging
from tribody.cli.models import fetch
from tribody.cli.quality_tables import print_report
from tribody.core.errors import BadConfig
from tribody.quality.held_out import bundled_file
from tribody.quality.logits import parse_precision
from tribody.quality.measure import Measurement, Settings
from tribody.quality.prose import Text, package_prose, text_file
from tribody.quality.report import Report

DEFAULT_FORMATS = ("w8g32",)  # what `tribody serve` runs


@dataclass(frozen=True)
class QualityOptions:
    """As typed by the user.  None: the default."""

    model: str | None
    formats: list[str]
    items: int | None  # 0 = no tasks
    max_tokens: int
    tokens: int  # 0 = no distributions
    noise_tokens: int
    context: int | None
    text: Path | None
    held_out: Path | None
    out: Path | None
    as_json: bool


def run_quality(options: QualityOptions, engine: EngineOptions) -> None:
    """Raises: BadConfig, DownloadFailed, BadModel, EngineFailed."""
    environment = read_environment(os.environ)
    start_logging(environment.log_level or "warning")
    formats = [parse_precision(name) for name in options.formats or DEFAULT_FORMATS]
    if len(set(formats)) != len(formats):
        raise BadConfig(f"--format: {', '.join(options.formats)}: name every format once")
    if options.out is not None:
        _check_writable(options.out)
    require_native()
    text = _text(options, environment)
    path = fetch(options.model or environment.model or DEFAULT_MODEL, environment)
    settings = Settings(
        formats=formats,
        held_out=_held_out(options),
        max_items=options.items or 0,
        max_answer_tokens=options.max_tokens,
        text=text,
        max_corpus_tokens=options.tokens,
        max_noise_tokens=options.noise_tokens,
        context_tokens=options.context,
    )
    quiet = options.as_json and not sys.stdout.isatty()
    with Bars(environment, quiet=quiet) as bars:
        report = Measurement(engine_config(path, engine, environment), settings, bars).run()
    _deliver(report, options, environment)


def _held_out(options: QualityOptions) -> Path | None:
    """A number of items that was asked for cannot be had without a file; the default can do so."""
    if options.items == 0:
        return None
    path = options.held_out or bundled_file()
    if path is None and options.items is not None:
        raise BadConfig(
            f"--items {options.items}: this build of tribody ships no held-out items; name a file "
            "with --held-out"
        )
    return path


def _text(options: QualityOptions, environment: Environment) -> Text | None:
    if options.tokens == 0:
        return None
    if options.text is not None:
        return text_file(options.text)
    return package_prose(environment.cache_dir)


def _check_writable(path: Path) -> None:
    """Before minutes of work; creates the file when it is not there."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise BadConfig(f"--out {path}: cannot be written: {error.strerror}") from error


def _deliver(report: Report, options: QualityOptions, environment: Environment) -> None:
    text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.as_json:
        print(text)
    else:
        print_report(report, Console(no_color=environment.no_color or None, highlight=False))


class Bars:
    """The stages of a measurement as progress bars on standard error; nothing when quiet."""

    def __init__(self, environment: Environment, *, quiet: bool) -> None:
        console = Console(stderr=True, no_color=environment.no_color or None)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=console, transient=True)
        self._quiet = quiet
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        if not self._quiet:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._quiet:
            self._bars.stop()

    def begin(self, stage: str, total: int) -> None:
        """See `quality.progress.Watcher`."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(stage, total=total)

    def advance(self, count: int) -> None:
        """See `quality.progress.Watcher`."""
        if self._task is not None:
            self._bars.advance(self._task, count)
