"""`tribody quantize`: a model's formats under a budget, as one packed file and its report."""

from __future__ import annotations

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
from tribody.core.config import EngineConfig
from tribody.core.errors import BadConfig
from tribody.loading import bundled
from tribody.loading.download import sha256_of
from tribody.loading.packed_checkpoint import SUFFIX
from tribody.ops import native
from tribody.quality.answers import template_of
from tribody.quality.chunks import Chunk, task_chunks, text_chunks
from tribody.quality.held_out import read_items
from tribody.quality.logits import REFERENCE, LoadedModel
from tribody.quality.prose import package_prose, text_file
from tribody.tuning import report
from tribody.tuning.manifest import Manifest
from tribody.tuning.quantize import Corpus, Goal, Quantization

CONTEXT = 512  # tokens of a piece of text
VERIFIED = 8  # tokens verified on for each one calibrated on: verification runs once


@dataclass(frozen=True)
class QuantizeOptions:
    """As typed by the user."""

    model: str
    out: Path
    budget: str | None
    bits: float | None
    text: Path | None
    tokens: int
    as_json: bool


def run(options: QuantizeOptions, engine: EngineOptions) -> None:
    """Raises: BadConfig, DownloadFailed, BadModel, EngineFailed."""
    environment = read_environment(os.environ)
    start_logging(environment.log_level or "warning")
    goal = _goal(options)
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
            manifest = Quantization(config, goal, corpus, native.OPS, bars).run(options.out)
        page = options.out.with_suffix(".html")
        page.write_text(report.html(manifest), encoding="utf-8")
    except OSError as error:
        raise BadConfig(f"--out {options.out}: cannot be written: {error.strerror}") from error
    if options.as_json:
        print(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode())
    else:
        console = Console(no_color=environment.no_color or None, highlight=False)
        _print(manifest, options.out, page, console)


def _goal(options: QuantizeOptions) -> Goal:
    if (options.budget is None) == (options.bits is None):
        raise BadConfig("give one of --budget (such as 99.5%) and --bits (such as 4.6)")
    if options.bits is not None:
        if not 1 <= options.bits <= 32:
            raise BadConfig(f"--bits {options.bits}: between 1 and 32 are possible")
        return Goal(bits=options.bits)
    assert options.budget is not None
    text = options.budget.strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0.5 <= share < 1:
        raise BadConfig(
            f"--budget {options.budget}: give a share such as 99.5% (50% to under 100%)"
        )
    return Goal(recovery=share)


def _corpus(options: QuantizeOptions, config: EngineConfig, environment: Environment) -> Corpus:
    """Prose, or for the bundled reasoner its own tasks, which are all it knows.

    Prose: chunks in turn, one to calibrate on, the next to verify on.  Tasks: the longer items
    calibrate, so that the held-out ones stay untouched.
    """
    model = LoadedModel(config, REFERENCE)
    is_bundled = Path(config.model_path).parent == bundled.root()
    if options.text is None and is_bundled:
        return _tasks(model, options.tokens)
    text = text_file(options.text) if options.text else package_prose(environment.cache_dir)
    context = min(CONTEXT, model.built.info.max_context_tokens)
    chunks = text_chunks(model, text.text, context, (1 + VERIFIED) * options.tokens)
    few = max(1, min(len(chunks) // 2, options.tokens // context))
    calibration = chunks[: 2 * few : 2]
    verification = [chunk for index, chunk in enumerate(chunks) if index >= 2 * few or index % 2]
    if not verification:
        raise BadConfig("the text is too short to calibrate and to verify on; give a longer --text")
    return Corpus("text", text.source, text.sha256, calibration, verification)


def _tasks(model: LoadedModel, tokens: int) -> Corpus:
    path = bundled.root() / "held_out.jsonl.gz"
    items = read_items(path)
    template = template_of(model)
    assert template is not None, "the bundled model has a chat template"

    def chunks(split: str, most: int) -> list[Chunk]:
        chosen = [item for item in items if item.split == split]
        return task_chunks(model, template, chosen, most)

    calibration, verification = chunks("longer", tokens), chunks("held_out", VERIFIED * tokens)
    return Corpus("tasks", "held-out items", sha256_of(path), calibration, verification)


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
        "same first token": f"{check.top1_agreement:.2%}",
        "model": str(out),
        "report": str(page),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
