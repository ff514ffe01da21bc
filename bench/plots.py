"""The report's pictures, PNG.  The only module that needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cells import CELLS, ITSELF
from measurements import OURS, Row, Series, ServeRow, quantile
from tables import groups, serve_groups

COLOURS = {
    OURS: "#0b6e4f",
    "llama.cpp": "#d1495b",
    "transformers": "#6c757d",
    ITSELF: "#8fb9aa",
}
DEPTH_OF = {cell.name: cell.depth for cell in CELLS if cell.kind == "decode" and cell.batch == 1}
SIZE, WIDE = (7.0, 4.0), (9.0, 4.0)  # inches


def draw(folder: Path, rows: Sequence[Row], served: Sequence[ServeRow]) -> dict[str, list[str]]:
    """Writes the pictures; their file names by the title of the table that they go with."""
    made: dict[str, list[str]] = {}
    for number, (title, group) in enumerate(groups(rows)):
        names = []
        for kind, plot in (("ratio", _ratios), ("depth", _depths), ("batch", _batches)):
            figure = Figure(figsize=SIZE, layout="constrained")
            axes = figure.subplots()
            if plot(axes, group):
                axes.set_title(title, fontsize=10)
                names.append(f"{number}-{kind}.png")
                figure.savefig(folder / names[-1], dpi=120)
        made[title] = names
    for number, (title, found) in enumerate(serve_groups(served)):
        figure = Figure(figsize=WIDE, layout="constrained")
        left, right = figure.subplots(1, 2)
        _serving(left, right, found)
        figure.suptitle(title, fontsize=10)
        made[title] = [f"serve-{number}.png"]
        figure.savefig(folder / made[title][0], dpi=120)
    return made


def _ratios(axes: Axes, rows: Sequence[Row]) -> bool:
    """How many times as fast as the best peer; the whisker goes from the least to the most."""
    compared = [(row, row.ratio) for row in reversed(rows) if row.ratio is not None]
    for place, (row, ratio) in enumerate(compared):
        low, high = row.ratio_range or (ratio, ratio)
        whisker = [[max(0.0, ratio - low)], [max(0.0, high - ratio)]]
        axes.barh(place, ratio, color=COLOURS[OURS], xerr=whisker, error_kw={"capsize": 3})
    labels = [f"{row.title}  {ratio:.2f}" for row, ratio in compared]
    axes.set_yticks(range(len(compared)), labels, fontsize=8)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("times the best peer's tokens/s")
    return bool(compared)


def _depths(axes: Axes, rows: Sequence[Row]) -> bool:
    """Decoding of one sequence by depth."""
    axes.set_xlabel("tokens deep")
    return _lines(axes, [(DEPTH_OF[row.cell], row) for row in rows if row.cell in DEPTH_OF])


def _batches(axes: Axes, rows: Sequence[Row]) -> bool:
    """Decoding by number of sequences."""
    points = [(row.batch, row) for row in rows if row.cell.startswith("batch-")]
    _doubling(axes, [count for count, _ in points], "sequences at once, 128 tokens deep")
    return _lines(axes, points)


def _lines(axes: Axes, points: Sequence[tuple[int, Row]]) -> bool:
    """One line a program: its fastest at each point, with the whole spread."""
    for program, colour in COLOURS.items():
        found: list[tuple[int, Series]] = []
        for x, row in sorted(points, key=lambda point: point[0]):
            series = row.ours if program == OURS else row.best(program)
            if series is not None:
                found.append((x, series))
        if found:
            middle = [series.median for _, series in found]
            low = [series.median - min(series.rates) for _, series in found]
            high = [max(series.rates) - series.median for _, series in found]
            axes.errorbar(
                [x for x, _ in found],
                middle,
                [low, high],
                color=colour,
                marker="o",
                capsize=3,
                label=program,
            )
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    if points:
        axes.legend(fontsize=8)
    return len(points) > 1


def _serving(rates: Axes, times: Axes, rows: Sequence[ServeRow]) -> None:
    clients = [row.clients for row in rows]
    rates.plot(clients, [row.rate for row in rows], marker="o", color=COLOURS[OURS])
    rates.set_ylim(bottom=0)
    rates.set_ylabel("output tokens/s")
    for share, style in ((0.5, "-"), (0.99, "--")):
        firsts = [quantile(row.firsts, share) if row.firsts else 0.0 for row in rows]
        gaps = [quantile(row.gaps, share) if row.gaps else 0.0 for row in rows]
        rank = f"p{share * 100:.0f}"
        times.plot(clients, firsts, f"o{style}", color="#0b6e4f", label=f"first token, {rank}")
        times.plot(clients, gaps, f"s{style}", color="#edae49", label=f"between tokens, {rank}")
    times.set_yscale("log")
    times.set_ylabel("seconds")
    times.legend(fontsize=8)
    for axes in (rates, times):
        _doubling(axes, clients, "clients")


def _doubling(axes: Axes, counts: Sequence[int], title: str) -> None:
    """An axis of counts that double."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel(title)
