"""Charts over days as SVG text: stacked columns and a line.  For reports that need no library.

Drawn values may be rounded; the tables beside them are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 40, 28
MAX_DAY_LABELS = 8
STYLE = (
    "path{stroke:#ddd;fill:none}polyline{stroke:#1b6ca8;fill:none;stroke-width:2}"
    "text{font:12px system-ui,sans-serif;text-anchor:middle;fill:#333}"
    ".end{text-anchor:end}.start{text-anchor:start}"
)


class Series(msgspec.Struct, frozen=True):
    """One colour of a chart, a value for each label."""

    name: str
    colour: str
    values: Sequence[float]


def columns_chart(title: str, labels: Sequence[str], series: Sequence[Series]) -> str:
    """Columns of stacked series, one for each label."""
    sums = [sum(one.values[i] for one in series) for i in range(len(labels))]
    top = nice_top(max(sums, default=0.0))
    step = _step(labels)
    width = max(1.0, 0.8 * step)
    drawn = []
    for index in range(len(labels)):
        below = 0.0
        for one in series:
            low, high = _y(below, top), _y(below + one.values[index], top)
            below += one.values[index]
            if low > high:
                x = LEFT + (index + 0.5) * step - width / 2
                drawn.append(
                    f'<rect x="{x:.1f}" y="{high:.1f}" width="{width:.1f}" '
                    f'height="{low - high:.1f}" fill="{one.colour}"/>'
                )
    legend, x = [], LEFT
    for one in series if len(series) > 1 else ():
        legend.append(f'<rect x="{x}" y="24" width="10" height="10" fill="{one.colour}"/>')
        legend.append(f'<text x="{x + 14}" y="33" class="start">{escape(one.name)}</text>')
        x += 30 + 7 * len(one.name)
    return _svg(title, labels, top, "".join(drawn + legend))


def line_chart(title: str, labels: Sequence[str], values: Sequence[float], top: float) -> str:
    """A line through one value for each label, from 0 to `top`."""
    step = _step(labels)
    points = [(LEFT + (index + 0.5) * step, _y(value, top)) for index, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1b6ca8"/>' for x, y in points)
    return _svg(title, labels, top, f'<polyline points="{line}"/>{dots}')


def nice_top(value: float) -> float:
    """The least of 1, 2, 2.5, 5 and 10 times a power of ten that is not below it."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((n * power for n in (1, 2, 2.5, 5) if value <= n * power), 10 * power)


def _step(labels: Sequence[str]) -> float:
    return (WIDTH - LEFT - RIGHT) / max(1, len(labels))


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)


def _svg(title: str, labels: Sequence[str], top: float, drawn: str) -> str:
    marks = []
    for quarter in range(5):
        value = top * quarter / 4
        y = _y(value, top)
        marks.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{_short(value)}</text>')
    step, every = _step(labels), math.ceil(len(labels) / MAX_DAY_LABELS) or 1
    for index in range(0, len(labels), every):
        x = LEFT + (index + 0.5) * step
        marks.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}">{escape(labels[index])}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style>'
        f'<text x="{LEFT}" y="16" class="start">{escape(title)}</text>'
        f"{''.join(marks)}{drawn}</svg>"
    )


def _short(value: float) -> str:
    """`2.5 M`: an axis has no room for more."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.6g}"
