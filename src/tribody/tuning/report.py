"""A quantized model's report as one HTML page: the frontier as a picture, the matrices as a table.

The picture is SVG written here: a report must not need a plotting library to be made.
"""

from __future__ import annotations

import math
from html import escape

from tribody.tuning.manifest import Manifest

WIDTH, HEIGHT, MARGIN = 720, 360, 56
SMALLEST_KL = 1e-7  # below it is the noise of float32 logits


def _axes(manifest: Manifest) -> tuple[float, float, float, float]:
    """Limits: bits per weight, then log10 of nats."""
    bits = [point.bits_per_weight for point in manifest.frontier]
    losses = [math.log10(max(p.predicted_kl_nats, SMALLEST_KL)) for p in manifest.frontier]
    low, high = math.floor(min(losses)), math.ceil(max(losses))
    return min(bits) - 0.1, max(bits) + 0.1, float(low), float(max(high, low + 1))


def frontier_svg(manifest: Manifest) -> str:
    """Predicted loss over bits per weight, and the verified model as a dot."""
    left, right, low, high = _axes(manifest)

    def place(bits: float, kl: float) -> tuple[float, float]:
        x = MARGIN + (bits - left) / (right - left) * (WIDTH - 2 * MARGIN)
        level = (math.log10(max(kl, SMALLEST_KL)) - low) / (high - low)
        return x, HEIGHT - MARGIN - min(max(level, 0.0), 1.0) * (HEIGHT - 2 * MARGIN)

    path = " ".join(
        f"{x:.1f},{y:.1f}"
        for x, y in (place(p.bits_per_weight, p.predicted_kl_nats) for p in manifest.frontier)
    )
    grid = []
    for power in range(int(low), int(high) + 1):
        _, y = place(left, 10.0**power)
        grid.append(f'<path d="M{MARGIN} {y:.1f}H{WIDTH - MARGIN}"/>')
        grid.append(f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" class="end">1e{power}</text>')
    for half_bits in range(math.ceil(2 * left), math.floor(2 * right) + 1):
        x, _ = place(half_bits / 2, 1.0)
        grid.append(f'<path d="M{x:.1f} {MARGIN}V{HEIGHT - MARGIN}"/>')
        grid.append(f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 16}">{half_bits / 2:g}</text>')
    x, y = place(manifest.bits_per_weight, manifest.verification.kl_mean_nats)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss over bits per weight">'
        "<style>path{stroke:#ccc;fill:none}polyline{stroke:#06c;fill:none;stroke-width:2}"
        "text{font:12px sans-serif;text-anchor:middle}.end{text-anchor:end}</style>"
        f'{"".join(grid)}<polyline points="{path}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#c30"/>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}">bits per weight</text>'
        f'<text x="{MARGIN}" y="24" style="text-anchor:start">mean KL to float32, nats per token: '
        "line, predicted from single matrices; dot, this model on held-out text</text></svg>"
    )


def html(manifest: Manifest) -> str:
    """The whole page, with nothing to fetch."""
    formats = sorted({name for matrix in manifest.matrices.values() for name in matrix.losses})
    head = "".join(f"<th>{escape(name)}</th>" for name in formats)
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{matrix.num_weights:,}</td><td>{escape(matrix.format)}</td>"
        + "".join(f"<td>{matrix.losses.get(f, math.nan):.2e}</td>" for f in formats)
        + "</tr>"
        for name, matrix in manifest.matrices.items()
    )
    check = manifest.verification
    interval = check.kl_mean_interval_nats
    spread = "" if interval is None else f" (95 %: {interval.low:.2e} to {interval.high:.2e})"
    return (
        '<!doctype html><meta charset="utf-8"><title>tribody quantize</title>'
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto}"
        "td,th{padding:2px 8px;text-align:right}td:first-child{text-align:left}</style>"
        f"<h1>{escape(manifest.source)} at {manifest.bits_per_weight:.2f} bits per weight</h1>"
        f"<p>On {check.num_tokens:,} tokens of {escape(check.corpus)} that no format was chosen "
        f"by: mean KL {check.kl_mean_nats:.2e} nats{spread}, perplexity x "
        f"{check.perplexity_ratio:.4f}, same first token {check.top1_agreement:.2%}, right tokens "
        f"{check.correct_to_wrong} lost and {check.wrong_to_correct} gained, recovery "
        f"{manifest.recovery:.2%}.  {manifest.weight_bytes / 1e6:,.1f} MB of weights.</p>"
        f"{frontier_svg(manifest)}<h2>Matrices</h2>"
        "<p>Each matrix's part of the mean KL with all of them in one format, rounded plainly.</p>"
        f"<table><tr><th>matrix</th><th>weights</th><th>kept as</th>{head}</tr>{rows}</table>"
    )
