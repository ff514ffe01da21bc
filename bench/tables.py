"""Rows as text: tables for the terminal, README and the report's page, and JSON lines.  Pure."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cells import ITSELF
from measurements import Row, Series, ServeRow, quantile, rows_of, serve_rows_of
from records import Record, of_kind

BLOCK = re.compile(r"(<!-- bench:begin -->\n).*?(<!-- bench:end -->)", re.DOTALL)

HEADINGS = (
    "",
    "tribody, tokens/s",
    "llama.cpp, tokens/s",
    "transformers, tokens/s",
    "tribody itself, tokens/s",
    "ratio",
    "read, GB/s",
    "of bandwidth",
    "of int8",
)
SERVE_HEADINGS = (
    "clients",
    "output, tokens/s",
    "with prompts, tokens/s",
    "first token p50 / p99, s",
    "between tokens p50 / p99 / max, ms",
    "from cache",
    "requests",
    "errors",
)
NOT_IN_README = ("transformers", "tribody itself", "of int8")
README_HEADINGS = tuple(h for h in HEADINGS if not h.startswith(NOT_IN_README))


def spread(rates: Sequence[float]) -> str:
    """Median and, in brackets, the smallest and the largest."""

    def shown(value: float) -> str:
        return f"{value:.0f}" if value >= 10 else f"{value:.1f}"

    if len(rates) == 1:
        return f"{shown(rates[0])} (once)"
    return f"{shown(statistics.median(rates))} ({shown(min(rates))}-{shown(max(rates))})"


def cells(row: Row) -> dict[str, str]:
    """One line of the table, by heading."""

    def peer(series: Series | None) -> str:
        if series is None:
            return "-"
        engine = series.engine
        return f"{spread(series.rates)} {engine.weights} {engine.variant}".rstrip()

    ratio, read = row.ratio, row.bytes_per_second
    low_high = row.ratio_range
    between = "" if low_high is None else f" ({low_high[0]:.2f}-{low_high[1]:.2f})"
    texts = (
        row.title,
        spread(row.ours.rates),
        peer(row.best("llama.cpp")),
        peer(row.best("transformers")),
        peer(row.best(ITSELF)),
        "-" if ratio is None else f"{ratio:.2f}{between}",
        "-" if read is None else f"{read / 1e9:.1f}",
        _percent(row.bandwidth_share),
        _percent(row.arithmetic_share),
    )
    return dict(zip(HEADINGS, texts, strict=True))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def serve_cells(row: ServeRow) -> tuple[str, ...]:
    def quantiles(values: Sequence[float], unit: float, digits: int, *shares: float) -> str:
        if not values:
            return "-"
        return " / ".join(f"{quantile(values, share) * unit:.{digits}f}" for share in shares)

    return (
        str(row.clients),
        spread(row.rates),
        f"{statistics.median(row.total_rates):.0f}",
        quantiles(row.firsts, 1, 2, 0.5, 0.99),
        quantiles(row.gaps, 1e3, 0, 0.5, 0.99, 1.0),
        _percent(row.cached_share),
        str(row.requests),
        str(row.errors),
    )


def groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """(title, rows) of every model and pairing."""
    for (model, pairing), group in groupby(rows, key=lambda row: (row.model, row.pairing)):
        found = list(group)
        yield f"{model}, {pairing}: {found[0].ours.engine.label}", found


def serve_groups(rows: Sequence[ServeRow]) -> Iterator[tuple[str, list[ServeRow]]]:
    ordered = sorted(rows, key=lambda row: (row.model, row.server, row.clients))
    for (model, server), group in groupby(ordered, key=lambda row: (row.model, row.server)):
        yield f"{model}, served by {server}", list(group)


# --- Prose --------------------------------------------------------------------------------------


def caption(records: Sequence[Record]) -> str:
    """What all rows of a run have in common."""
    runs = of_kind(records, "run")
    if not runs:
        return "No run is recorded."
    run = runs[0]
    threads = [f"{r['threads']} threads, " for r in of_kind(records, "engine") if "threads" in r]
    loads = " and ".join(f"{r['load']:.1f}" for r in runs)
    versions = sorted({f"{r['version']} ({r['system']})" for r in of_kind(records, "engine")})
    text = (
        f"{run['cpu']} ({', '.join(_texts(run['isa']))}), {''.join(threads[:1])}"
        f"{run['memory_gb']} GB, {run['date']}, commit {run['commit']}. "
        f"Load of the machine before the start: {loads}."
    )
    parts = [text, *_other_work(records), *_limits(records), *(f"{v}." for v in versions)]
    return " ".join(parts)


def _other_work(records: Sequence[Record]) -> Iterator[str]:
    samples = of_kind(records, "sample")
    shares = [float(str(sample["other_work"])) for sample in samples if sample["round"]]
    if shares:
        yield (
            f"Other work took {statistics.median(shares):.0%} of the processors during a timing "
            f"(median; {quantile(shares, 0.9):.0%} or more during a tenth of them)."
        )


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _limits(records: Sequence[Record]) -> Iterator[str]:
    """What the machine can do beside each model; the spread says how quiet it was."""
    limits = of_kind(records, "limits")

    def over(own: Sequence[Record], key: str) -> str:
        values = [float(str(record[key])) / 1e9 for record in own]
        return f"{max(values):.1f} ({min(values):.1f}-{max(values):.1f})"

    for model in dict.fromkeys(str(r["model"]) for r in limits):
        own = [record for record in limits if record["model"] == model]
        yield (
            f"{model}: the machine reads {over(own, 'bytes_per_second')} GB/s from a buffer of the "
            f"weights' size and {over(own, 'memory_bytes_per_second')} GB/s from 1 GiB; "
            f"{over(own, 'macs_per_second')} G int8 multiply-adds/s."
        )


def check_lines(records: Sequence[Record]) -> list[str]:
    return [
        f"{r['model']}: llama.cpp in F16 chose tribody's float32 token at {r['equal']} of "
        f"{r['positions']} positions, {r['near_ties']} of the others were near ties; logits differ "
        f"by {r['difference_median']:.1e} of their size (median; {r['difference_max']:.1e} at most)"
        for r in of_kind(records, "check")
    ]


# --- Outputs ------------------------------------------------------------------------------------


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|---" + "|---:" * (len(headings) - 1) + "|"
    table = ["| " + " | ".join(headings) + " |", rule]
    table += ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(table) + "\n"


@dataclass(frozen=True, slots=True)
class Section:
    """One table under its title."""

    title: str
    headings: Sequence[str]
    lines: list[list[str]]


def sections(records: Sequence[Record]) -> list[Section]:
    """Every table of a run, the engines' first, then the server's."""
    engines = [
        Section(title, *_used(HEADINGS, [list(cells(row).values()) for row in group]))
        for title, group in groups(rows_of(records))
    ]
    servers = [
        Section(title, SERVE_HEADINGS, [list(serve_cells(row)) for row in group])
        for title, group in serve_groups(serve_rows_of(records))
    ]
    return engines + servers


def _used(headings: Sequence[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The columns in which any line says something."""
    used = [i for i, _ in enumerate(headings) if not i or any(line[i] != "-" for line in lines)]
    return [headings[i] for i in used], [[line[i] for i in used] for line in lines]


def print_tables(records: Sequence[Record], console: Console) -> None:
    for section in sections(records):
        table = Table(title=section.title, title_justify="left")
        for index, heading in enumerate(section.headings):
            table.add_column(heading, justify="right" if index else "left")
        for line in section.lines:
            table.add_row(*line)
        console.print(table)
    for text in [caption(records), *check_lines(records)]:
        console.print(text, soft_wrap=True, highlight=False)


def json_lines(records: Sequence[Record], rows: Sequence[Row]) -> str:
    """One line for each row; every line stands alone."""
    runs = of_kind(records, "run")
    common = {key: value for key, value in runs[0].items() if key != "record"} if runs else {}
    lines = []
    for row in rows:
        derived = {
            "ratio": row.ratio,
            "ratio_range": row.ratio_range,
            "tokens_per_s": row.ours.median,
            "peer_tokens_per_s": {peer.engine.label: peer.median for peer in row.peers},
            "bytes_per_second": row.bytes_per_second,
            "bandwidth_share": row.bandwidth_share,
            "arithmetic_share": row.arithmetic_share,
        }
        lines.append(json.dumps({"bench": "engine", **common, **asdict(row), **derived}))
    return "".join(line + "\n" for line in lines)


def update_readme(path: Path, records: Sequence[Record], rows: Sequence[Row]) -> None:
    """Replace the block between the bench marks of a Markdown file: the 8-bit rows."""
    parts = []
    for title, group in groups([row for row in rows if row.pairing == "8-bit"]):
        lines = [[cells(row)[heading] for heading in README_HEADINGS] for row in group]
        parts.append(f"**{title}**\n\n" + markdown(README_HEADINGS, lines))
    block = "\n".join([*parts, caption(records) + "\n"])
    text = path.read_text("utf-8")
    changed, count = BLOCK.subn(lambda match: match[1] + block + match[2], text)
    if count != 1:
        raise ValueError(f"{path} has {count} blocks of bench:begin and bench:end; one is needed")
    path.write_text(changed, "utf-8")
