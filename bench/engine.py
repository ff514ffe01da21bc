"""Measures tribody's engine beside llama.cpp and transformers, on the same weights.

    .venv-bench/bin/python bench/engine.py [--quick] [--only MODEL/CELL …] [--rounds N] …

Every engine is a process of its own with the same number of threads, float16 KV and steps of 512
tokens, interleaved (`rounds`).  llama.cpp runs each cell with and without flash attention,
transformers in float32 and in bfloat16; each is given its faster one.  Every timing is a line of
samples.jsonl at once: a run that is killed goes on with --resume, and --report-only draws the
report from what there is.  See docs/bench.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from rich.console import Console

import machine
import model_files
import report
import time_spent
from cells import CELLS, PAIRINGS, Cell, Pairing, is_wanted
from model_files import ModelFiles
from peer_process import TRANSFORMERS_PYTHON, PeerFailed
from progress import Progress
from records import RecordFile, of_kind
from rounds import Rounds, Settings
from subject import Subject
from tribody import _native
from tribody.core.errors import TribodyError
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.download import default_cache_dir
from tribody.models.config import ModelConfig, read_config

QUIET_LOAD = 0.5


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add, names = parser.add_argument, [pairing.name for pairing in PAIRINGS]
    add("--model", nargs="+", default=list(model_files.MODELS), help="names or paths")
    add("--pairing", nargs="+", default=names, choices=names, help="formats of the same size")
    add("--four-bit", default="", help="tribody's 4-bit format, or a packed file of the one model")
    add(
        "--only", nargs="+", default=[], metavar="MODEL/CELL", help="with * and ?, or a cell's name"
    )
    add("--rounds", type=int, default=5, help="after the warm-up")
    add("--quick", action="store_true", help="two short rounds: is it sound?")
    add("--patience", type=float, default=0, help="seconds to wait for other work, each timing")
    add("--threads", type=int, default=0, help="of every engine (0 = physical cores)")
    add("--isa", choices=_native.isa_levels(), help="tribody's instruction set")
    add("--no-peers", action="store_true", help="tribody alone")
    add("--no-check", action="store_true", help="do not compare the engines' logits first")
    add("--llama-python", type=Path, help="an interpreter with another llama-cpp-python")
    add("--transformers-python", type=Path, default=TRANSFORMERS_PYTHON)
    add("--profile", action="store_true", help="show where tribody's time goes, nothing else")
    add("--out", type=Path, help="the run's folder (default: bench/results/TIME)")
    add("--resume", action="store_true", help="go on in --out, or in the newest run")
    add("--report-only", action="store_true", help="draw the report of --out, or of the newest run")
    add("--json", nargs="?", const="-", help="append the rows to FILE, or print them")
    add("--update-readme", action="store_true", help="renew the tables in README")
    options = parser.parse_args(arguments)
    if options.isa and not (options.llama_python or options.no_peers or options.profile):
        parser.error("--isa limits tribody alone: name a llama.cpp for it too (--llama-python)")
    return options


def config_of(path: Path) -> ModelConfig:
    with closing(open_checkpoint(path)) as checkpoint:
        return read_config(checkpoint.config)


def pairings(options: argparse.Namespace) -> list[Pairing]:
    """Those that were asked for; the 4-bit one only when tribody's side of it is named.

    With --isa and peers, llama.cpp is one that was built for it, and the tables stand apart.
    """
    chosen = [pairing for pairing in PAIRINGS if pairing.name in options.pairing]
    named = [p if p.ours else replace(p, ours=options.four_bit) for p in chosen]
    if options.isa and not options.no_peers:
        named = [pairing.limited_to(options.isa) for pairing in named]
    return [pairing for pairing in named if pairing.ours]


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings(
        rounds=2 if options.quick else options.rounds,
        threads=options.threads,
        isa=options.isa,
        with_peers=not options.no_peers,
        patience_seconds=options.patience,
        pythons={
            "llama.cpp": options.llama_python,
            "transformers": options.transformers_python,
        },
    )


def check(
    options: argparse.Namespace, files: ModelFiles, file: RecordFile, progress: Progress
) -> None:
    """Compare tribody with llama.cpp once a run, in a process of its own: float32 takes memory."""
    name = files.name
    if any(record["model"] == name for record in of_kind(file.records, "check")):
        return
    progress.say(f"{name}: comparing logits with llama.cpp's")
    command = [sys.executable, str(machine.ROOT / "bench" / "conversion.py")]
    command += ["--model", str(files.path), "--threads", str(options.threads)]
    if options.llama_python:
        command += ["--llama-python", str(options.llama_python)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not ended.stdout:
        progress.say(f"{name}: the comparison failed; see above")
        return
    file.add("check", {**json.loads(ended.stdout), "model": name})
    if ended.returncode:
        progress.say(f"{name}: WRONG: the engines do not compute the same: {ended.stdout}")


def wanted_cells(options: argparse.Namespace, name: str) -> list[Cell]:
    cells = [cell for cell in CELLS if is_wanted(name, cell.name, options.only)]
    return [cell.quick() for cell in cells] if options.quick else cells


def measure(
    options: argparse.Namespace, files: ModelFiles, file: RecordFile, progress: Progress
) -> None:
    """Raises: PeerFailed when tribody ends."""
    config = config_of(files.path)
    if not (options.no_check or options.no_peers):
        check(options, files, file, progress)
    for pairing in pairings(options):
        cells = [c for c in wanted_cells(options, files.name) if c.name in pairing.cells]
        if cells:
            settings = settings_of(options)
            rounds = Rounds(files, config, pairing, cells, settings, file, progress)
            with ExitStack() as stack:
                rounds.start(stack)
                rounds.run()


def profile(options: argparse.Namespace, files: ModelFiles) -> None:
    cells = wanted_cells(options, files.name)
    for pairing in pairings(options):
        subject = Subject(files.path, pairing.ours, options.threads, max(c.batch for c in CELLS))
        time_spent.show(subject, cells, Console(width=120))


def models(options: argparse.Namespace, progress: Progress) -> Iterator[ModelFiles]:
    """Those of which any cell is wanted; made or fetched when their turn comes."""
    cache = default_cache_dir(os.environ)
    for name in options.model:
        if wanted_cells(options, model_files.label(name)):
            yield model_files.find(name, cache, options.llama_python, progress.say)


def deliver(options: argparse.Namespace, folder: Path) -> None:
    console = Console(stderr=options.json == "-", width=None if sys.stdout.isatty() else 200)
    lines = report.write(folder, console)
    if options.json == "-":
        print(lines, end="")
    elif options.json:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(lines)
    if options.update_readme:
        report.update_readmes(folder)


def main(arguments: Sequence[str]) -> int:
    load = os.getloadavg()[0]
    options = parse(arguments)
    progress = Progress()
    try:
        if options.isa:  # of the machine's own rates too; tribody runs in a process of its own
            _native.set_isa(options.isa)
        if options.profile:
            for files in models(options, progress):
                profile(options, files)
            return 0
        folder = report.folder_of(options)
        if not options.report_only:
            if load > QUIET_LOAD:
                progress.say(f"the machine is busy (load {load:.1f}): the report will say so")
            file = RecordFile(folder)
            file.add("run", machine.start_record(load))
            for files in models(options, progress):
                measure(options, files, file, progress)
        deliver(options, folder)
    except (PeerFailed, TribodyError) as problem:
        progress.say(f"{problem}; --no-peers measures tribody alone")
        return 1
    except KeyboardInterrupt:
        progress.say("stopped; --resume goes on, --report-only draws what there is")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
