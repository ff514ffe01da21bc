"""Numbers from repeats: medians, spreads, JSON lines, a table for the terminal and for README."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from machine import Machine
from subject import Shape

BLOCK = re.compile(r"(<!-- bench:begin -->\n).*?(<!-- bench:end -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One shape on both engines.  Rates are tokens per second over all sequences."""

    shape: Shape
    rates: tuple[float, ...]
    peer_rates: tuple[float, ...]  # empty without a peer
    peer_variant: str
    bytes_per_step: float  # weights once, and the keys and values that a step reads
    bandwidth: float  # the run's

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def peer_rate(self) -> float | None:
        return statistics.median(self.peer_rates) if self.peer_rates else None

    @property
    def ratio(self) -> float | None:
        """Median of the pairs' ratios: a pair is measured back to back, so drift cancels."""
        if not self.peer_rates:
            return None
        pairs = zip(self.rates, self.peer_rates, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    @property
    def bytes_per_second(self) -> float | None:
        """Decode only: a prefill is bound by arithmetic."""
        if self.shape.kind == "prefill":
            return None
        return self.bytes_per_step * self.rate / self.shape.batch

    @property
    def bandwidth_fraction(self) -> float | None:
        read = self.bytes_per_second
        return None if read is None else read / self.bandwidth


@dataclass(frozen=True, slots=True)
class Run:
    """What all rows of one run have in common."""

    commit: str
    date: str
    machine: Machine
    load: float  # other work at the start, in running threads; should be near 0
    num_threads: int
    isa: str  # what tribody's kernels chose
    weight_format: str
    peer: str
    bandwidth: float  # bytes per second read from a buffer of the weights' size
    memory_bandwidth: float  # the same from 1 GiB, which no cache holds


def json_lines(run: Run, rows: Sequence[Row]) -> str:
    """One line for each shape; every line stands alone."""
    lines = []
    for row in rows:
        low, high = min(row.rates), max(row.rates)
        record: dict[str, object] = {
            "bench": "engine",
            **asdict(run),
            "shape": asdict(row.shape),
            "repeats": len(row.rates),
            "tokens_per_s": round(row.rate, 2),
            "tokens_per_s_min_max": [round(low, 2), round(high, 2)],
            "bytes_per_step": round(row.bytes_per_step),
            "gb_per_s": _rounded(row.bytes_per_second, 1e9),
            "bandwidth_fraction": _rounded(row.bandwidth_fraction),
        }
        if row.peer_rates:
            record["peer_tokens_per_s"] = _rounded(row.peer_rate)
            record["peer_tokens_per_s_min_max"] = [
                round(min(row.peer_rates), 2),
                round(max(row.peer_rates), 2),
            ]
            record["peer_variant"] = row.peer_variant
            record["ratio"] = _rounded(row.ratio)
        lines.append(json.dumps(record))
    return "\n".join(lines) + "\n"


def _rounded(value: float | None, unit: float = 1.0) -> float | None:
    return None if value is None else round(value / unit, 3)


HEADINGS = ("", "tribody, tokens/s", "llama.cpp, tokens/s", "ratio", "read, GB/s", "of bandwidth")


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table, as text: median and, in brackets, the smallest and the largest."""

    def shown(rates: Sequence[float]) -> str:
        if not rates:
            return "-"
        return f"{statistics.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})"

    read, fraction = row.bytes_per_second, row.bandwidth_fraction
    return (
        row.shape.title,
        shown(row.rates),
        shown(row.peer_rates) + (f" {row.peer_variant}" if row.peer_rates else ""),
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        "-" if read is None else f"{read / 1e9:.1f}",
        "-" if fraction is None else f"{fraction:.0%}",
    )


def caption(run: Run) -> str:
    machine = run.machine
    return (
        f"{machine.cpu}, {run.num_threads} threads, {machine.memory_gb:.0f} GB, "
        f"tribody {run.commit} ({run.isa}, {run.weight_format}) beside {run.peer} (Q8_0), "
        f"{run.date}. Medians, smallest and largest in brackets; repeats interleaved. "
        f"Load of the machine before the start: {run.load:.1f}. It reads {run.bandwidth / 1e9:.1f} "
        f"GB/s from a buffer of the weights' size (100% in the last column) and "
        f"{run.memory_bandwidth / 1e9:.1f} GB/s from 1 GiB."
    )


def print_table(run: Run, rows: Sequence[Row], console: Console) -> None:
    table = Table(caption=caption(run), caption_justify="left")
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if index else "left")
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)


def update_readme(path: Path, run: Run, rows: Sequence[Row]) -> None:
    """Replace the block between the bench marks of a Markdown file."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" + "|---:" * (len(HEADINGS) - 1) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    block = "\n".join(lines) + "\n\n" + caption(run) + "\n"
    text = path.read_text("utf-8")
    changed, count = BLOCK.subn(lambda match: match[1] + block + match[2], text)
    if count != 1:
        raise ValueError(f"{path} has {count} blocks of bench:begin and bench:end; one is needed")
    path.write_text(changed, "utf-8")
