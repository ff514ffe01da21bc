"""`tribody quantize`: a model's formats under a budget, as one packed file and its report."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tribody.cli.bench import Bars
from tribody.cli.engine_options import EngineOptions, engine_config, require_native
from tribody.cli.environment import Environment, read_environment
from tribody.cli.logs import start_logging
from tribody.cli.models import fetch
from tribody.core.config import EngineConfig, WeightFormat
from tribody.core.errors import BadConfig
from tribody.loading import bundled
from tribody.loading.packed_checkpoint import SUFFIX
from tribody.ops import native
from tribody.precision.search import SEARCHES
from tribody.quality.logits import REFERENCE, LoadedModel
from tribody.quality.prose import package_prose, text_file
from tribody.tuning import report
from tribody.tuning.choice import Goal
from tribody.tuning.corpus import Corpus, prose_corpus, task_corpus
from tribody.tuning.manifest import Manifest
from tribody.tuning.quantize import Quantization


@dataclass(frozen=True)
class QuantizeOptions:
    """As typed by the user."""

    model: str
    out: Path
    budget: str | None
    speed: float | None
    bits: float | None
    formats: str
    text: Path | None
    tokens: int
    as_json: bool


def run(options: QuantizeOptions, engine: EngineOptions) -> int:
    """The exit status: 1 where what was asked for is missed on held-out text or by the clock.

    Raises: BadConfig, DownloadFailed, BadModel, EngineFailed."""
    environment = read_environment(os.environ)
    start_logging(environment.log_level or "warning")
    goal, formats = _goal(options), _formats(options.formats)
    if options.out.suffix != SUFFIX:
        raise BadConfig(f"--out {options.out}: the name must end with {SUFFIX}")
    if not options.out.parent.is_dir():
        raise BadConfig(f"--out {options.out}: {options.out.parent} is not a folder")
    require_native()
    path = fetch(options.model, environment)
    config = engine_config(path, engine, environment)
    corpus = _corpus(options, config, environment)
    try:
        with Bars(environment, quiet=options.as_json and not sys.stdout.isatty()) as bars:
            quantization = Quantization(config, corpus, native.OPS, bars, formats)
            manifest = quantization.run(goal, options.out)
        page = options.out.with_suffix(".html")
        page.write_text(report.html(manifest), encoding="utf-8")
    except OSError as error:
        raise BadConfig(f"--out {options.out}: cannot be written: {error.strerror}") from error
    if options.as_json:
        print(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode())
    else:
        console = Console(no_color=environment.no_color or None, highlight=False)
        _print(manifest, options.out, page, console)
    missed = shortfalls(manifest)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


def _goal(options: QuantizeOptions) -> Goal:
    if options.bits is not None:
        if options.budget is not None or options.speed is not None:
            raise BadConfig("--bits stands alone: leave out --budget and --target-speed")
        if not 1 <= options.bits <= 32:
            raise BadConfig(f"--bits {options.bits}: between 1 and 32 are possible")
        return Goal(bits=options.bits)
    if options.speed is not None and not 0 < options.speed <= 16:
        raise BadConfig(f"--target-speed {options.speed}: give times of float16's, such as 3.2")
    if options.budget is None and options.speed is None:
        raise BadConfig(
            "give --budget (such as 99.5%), --target-speed (such as 3.2) or both, or --bits (such "
            "as 4.6)"
        )
    recovery = None if options.budget is None else _recovery(options.budget)
    return Goal(recovery=recovery, speed=options.speed)


def _formats(text: str) -> list[WeightFormat]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    formats = [known for known in SEARCHES if known in names]
    if not formats or len(formats) != len(set(names)):
        raise BadConfig(f"--formats {text}: name some of {', '.join(SEARCHES)}")
    return formats


def _recovery(budget: str) -> float:
    text = budget.strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0.5 <= share < 1:
        raise BadConfig(f"--budget {budget}: give a share such as 99.5% (50% to under 100%)")
    return share


def shortfalls(manifest: Manifest) -> list[str]:
    """What was asked for and, beyond chance, not reached; formats are chosen on other text."""
    found = []
    interval = manifest.verification.kl_mean_interval_nats
    if manifest.budget is not None and interval is not None:
        most = math.exp(-interval.low)
        if most < manifest.budget:
            found.append(
                f"--budget {manifest.budget:.2%} is missed: {manifest.recovery:.2%} on the "
                f"held-out text, {most:.2%} at most: ask for more"
            )
    speed = manifest.speed
    if speed is not None and speed.decode_ratio_interval.high < speed.target:
        found.append(
            f"--target-speed {speed.target:g} is missed: {speed.decode_ratio:.2f} times, "
            f"{speed.decode_ratio_interval.high:.2f} at most: ask for more"
        )
    return found


def _corpus(options: QuantizeOptions, config: EngineConfig, environment: Environment) -> Corpus:
    """Prose, or for the bundled reasoner its own tasks, which are all it knows."""
    model = LoadedModel(config, REFERENCE)
    if options.text is None and Path(config.model_path).parent == bundled.root():
        return task_corpus(model, bundled.root() / "held_out.jsonl.gz", options.tokens)
    text = text_file(options.text) if options.text else package_prose(environment.cache_dir)
    return prose_corpus(model, text, options.tokens)


def _print(manifest: Manifest, out: Path, page: Path, console: Console) -> None:
    check = manifest.verification
    table = Table(box=None, show_header=False)
    formats = Counter[str]()
    for matrix in manifest.matrices.values():
        formats[matrix.format] += matrix.num_weights
    shares = [f"{name} {n / formats.total():.0%}" for name, n in formats.most_common()]
    interval = check.kl_mean_interval_nats
    spread = "" if interval is None else f" ({interval.low:.5f} to {interval.high:.5f})"
    rows = {
        "bits per weight": f"{manifest.bits_per_weight:.2f}",
        "weights": f"{manifest.weight_bytes / 1e6:,.1f} MB",
        "formats": ", ".join(shares),
        "verified on": f"{check.num_tokens:,} tokens of {check.corpus}",
        "mean KL": f"{check.kl_mean_nats:.5f} nats{spread}",
        "recovery": f"{manifest.recovery:.2%}",
        "perplexity": f"x {check.perplexity_ratio:.4f}",
        **_speed_rows(manifest),
        "same first token": f"{check.top1_agreement:.2%}",
        "right tokens": f"{check.correct_to_wrong} lost, {check.wrong_to_correct} gained "
        f"(p = {check.mcnemar_p:.2f})",
        "model": str(out),
        "report": str(page),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _speed_rows(manifest: Manifest) -> dict[str, str]:
    speed = manifest.speed
    if speed is None:
        return {}
    interval = speed.decode_ratio_interval
    return {
        "decoding": f"{speed.decode_ratio:.2f} times as fast as float16 "
        f"({interval.low:.2f} to {interval.high:.2f})",
        f"reading {speed.prefill_tokens} tokens": f"{speed.prefill_ratio:.2f} times as fast",
    }
