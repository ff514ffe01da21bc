"""What each choice in the kernels is worth: one of them undone at a time, in turns.

    .venv-bench/bin/python bench/kernel_ablations.py [MODEL] [--rounds N] [--json FILE]

Cells: one sequence at depth 0 and 2,048, eight at depth 128, a prompt of 512 tokens; all but the
formats' rows in w8g32.  Every variant is timed back to back with the code as it runs, in rounds
whose order turns; `slower` is the median over rounds of the variant's time over its partner's, in
brackets the interval of ranks (`tuning.paired`).  Below 1 the choice does not pay here.

* instruction sets: each older one (results are the same bits);
* one call a layer's operator: the layers composed of five to twelve calls from Python each, as any
  backend without fused layers runs them, instead of one call for all layers;
* each number of native/tunables.h, which says what it is for, at both ends of what `tribody tune`
  tries;
* formats: as a ratio of the whole step to w8g32.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cells import Cell
from progress import Stages
from subject import Subject
from tribody.engine.machine import physical_cores
from tribody.loading.download import default_cache_dir
from tribody.loading.hub import resolve
from tribody.ops import native
from tribody.ops.native import OPS
from tribody.ops.table import Setting
from tribody.precision.formats import FORMATS
from tribody.tuning.paired import Ratio, paired_ratio

CELLS = (
    Cell("prefill-512", "prefill", 1, 512),
    Cell("decode-0", "decode", 1, 0, 16),
    Cell("decode-2048", "decode", 1, 2048, 16),
    Cell("batch-8", "decode", 8, 128, 16),
)
FORMAT = "w8g32"


class Composed:
    """The native operators without their fused layers, so that layers are composed of them."""

    def __getattr__(self, name: str) -> object:
        if name in ("grouped_query_layers", "latent_layers"):
            raise AttributeError(name)
        return getattr(OPS, name)


@dataclass(frozen=True, eq=False)
class Variant:
    """One choice undone.  `weights`: of an engine of its own; `settings`: for `Ops.tune`."""

    name: str
    settings: Mapping[str, Setting]
    weights: str = FORMAT
    composed: bool = False


AS_IT_RUNS = Variant("as it runs", {})


def variants() -> Iterator[Variant]:
    tunables = {tunable.name: tunable for tunable in OPS.tunables()}
    levels = tunables.pop("isa").values
    yield from (Variant(f"{level} kernels", {"isa": level}) for level in levels[:-1])
    yield Variant("a call for each operator of a layer", {}, composed=True)
    for name, tunable in tunables.items():
        ends = {min(tunable.values), max(tunable.values)}
        for value in sorted(ends - {tunable.default}):
            yield Variant(f"{name} = {value:,}", {name: value})
    yield from (Variant(f"{name} weights", {}, name) for name in FORMATS if name != FORMAT)


class Subjects:
    """Engines by weights and kind; each is loaded once."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        self._loaded: dict[tuple[str, bool], Subject] = {}

    def of(self, variant: Variant) -> Subject:
        key = (variant.weights, variant.composed)
        if key not in self._loaded:
            kept = native.OPS
            setattr(native, "OPS", Composed() if variant.composed else kept)  # noqa: B010
            try:
                batch = max(cell.batch for cell in CELLS)
                self._loaded[key] = Subject(self._path, variant.weights, self._threads, batch)
            finally:
                native.OPS = kept
        return self._loaded[key]

    def forget_others(self) -> None:
        """Give back every engine but the one that all variants are compared with."""
        self._loaded = {key: s for key, s in self._loaded.items() if key == (FORMAT, False)}


def compare(subjects: Subjects, variant: Variant, cell: Cell, rounds: int) -> Ratio:
    """The variant's time against the code as it runs; the first round warms up."""
    sides = ((variant, subjects.of(variant)), (AS_IT_RUNS, subjects.of(AS_IT_RUNS)))
    times: dict[Variant, list[float]] = {variant: [], AS_IT_RUNS: []}
    with ExitStack() as stack:
        for subject in dict.fromkeys(subject for _, subject in sides):
            if cell.kind == "decode":
                stack.callback(subject.clear, subject.fill(cell))
        for number in range(rounds + 1):
            for chosen, subject in sides if number % 2 else reversed(sides):
                OPS.tune(chosen.settings)
                prefill = cell.kind == "prefill"
                taken = subject.prefill(cell, number) if prefill else subject.decode(cell)
                times[chosen].append(taken)
    OPS.tune({})
    return paired_ratio(times[variant][1:], times[AS_IT_RUNS][1:])


def shown(ratio: Ratio) -> str:
    middle, low, high = (math.exp(value) for value in (ratio.middle, ratio.low, ratio.high))
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default="smollm2", help="name or path")
    parser.add_argument("--rounds", type=int, default=8, help="after the warm-up")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="variants' names, with * and ?"
    )
    parser.add_argument("--json", type=Path, help="append a line for each cell and variant")
    options = parser.parse_args(arguments)
    path = resolve(options.model, cache_dir=default_cache_dir(os.environ))
    subjects = Subjects(path, options.threads)
    table = Table(title=f"{path.name}, {FORMAT}: times slower than as it runs")
    for heading in ("undone", *(cell.name for cell in CELLS)):
        table.add_column(heading, justify="right" if table.columns else "left")
    progress = Stages()
    chosen = [variant for variant in variants() if fnmatch(variant.name, options.only)]
    for number, variant in enumerate(chosen, 1):
        progress.begin(f"{number} of {len(chosen)}: {variant.name}", len(CELLS))
        ratios = {cell.name: compare(subjects, variant, cell, options.rounds) for cell in CELLS}
        subjects.forget_others()
        table.add_row(variant.name, *map(shown, ratios.values()))
        if options.json:
            line = {"bench": "kernel_ablations", "model": path.name, "variant": variant.name}
            slower = {name: math.exp(ratio.middle) for name, ratio in ratios.items()}
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "slower": slower}) + "\n")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
