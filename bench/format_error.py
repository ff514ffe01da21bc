"""What each weight format loses: relative RMS error, as the table in docs/formats.md.

    PYTHONPATH=src python bench/format_error.py [--rows 512] [--columns 2048]

Gaussian and Student-t weights are drawn from fixed seeds; mini-r1's are all matrices of the
checkpoint that ships whose rows have a group or more.  Beside the formats stands one that tribody
does not have, a table of 16 signed values under a float16 scale, which shows why.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

import tribody
from tribody.core.config import WeightFormat
from tribody.loading.checkpoint import open_checkpoint
from tribody.precision.codes import FORMS, decode, encode
from tribody.precision.formats import FORMATS
from tribody.precision.quantize import F32, in_groups, out_of_groups
from tribody.precision.search import SEARCHES

TABLES = {
    # Lloyd's iterations on Gaussian groups, scale refitted in turn; the largest magnitude is 127.
    "table, fitted": [-127, -101, -83, -66, -52, -38, -24, -11, 3, 16, 28, 41, 54, 69, 87, 113],
    # The levels that llama.cpp publishes for IQ4_NL.
    "table, IQ4_NL's": [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
}
TABLE_FRACTIONS = np.linspace(0.8, 1.1, 13, dtype=np.float32)


def through_plain(weight_format: WeightFormat, weights: F32) -> F32:
    return decode(weight_format, encode(weights, weight_format), weights.shape[1])


def through_search(weight_format: WeightFormat, weights: F32) -> F32:
    return decode(weight_format, SEARCHES[weight_format](weights, None), weights.shape[1])


def through_table(levels: list[int], weights: F32) -> F32:
    """Weights as the nearest table[code] * scale, scale searched over both signs and refitted."""
    table = np.array(levels, np.float32) / 127
    edges = (table[1:] + table[:-1]) / 2
    shape = in_groups(weights).shape
    groups = in_groups(weights).reshape(-1, shape[-1])
    places = np.abs(groups).argmax(axis=-1)[:, None]
    largest = np.take_along_axis(groups, places, axis=-1)[:, 0]
    best, least = np.zeros_like(groups), np.full(len(groups), np.inf, np.float32)
    for sign in (1, -1):
        for fraction in TABLE_FRACTIONS:
            scales = np.where(largest == 0, np.float32(1), sign * fraction * largest)
            for _ in range(3):
                found = table[np.searchsorted(edges, groups / scales[:, None])]
                refit = (groups * found).sum(-1) / np.maximum(np.square(found).sum(-1), 1e-30)
                scales = refit.astype(np.float16).astype(np.float32)
                scales = np.where(scales == 0, np.float32(1e-7), scales)
            values = found * scales[:, None]
            error = np.square(groups - values).sum(-1)
            best = np.where((error < least)[:, None], values, best)
            least = np.minimum(error, least)
    return out_of_groups(best.reshape(shape), weights.shape[-1])


def relative_error(matrices: Iterable[F32], through: Callable[[F32], F32]) -> float:
    """RMS of what was lost over RMS of what was there, in percent."""
    lost = whole = 0.0
    for weights in matrices:
        lost += float(np.square((weights - through(weights)).astype(np.float64)).sum())
        whole += float(np.square(weights.astype(np.float64)).sum())
    return 100 * float(np.sqrt(lost / whole))


def matrices_of(rows: int, columns: int) -> dict[str, list[F32]]:
    rng = np.random.default_rng(1)
    bundled = open_checkpoint(Path(tribody.__file__).parent / "bundled" / "mini-r1")
    shipped = [bundled.read(name) for name in bundled.names()]
    return {
        "Gaussian": [rng.standard_normal((rows, columns), dtype=np.float32)],
        "Student-t": [rng.standard_t(5, (rows, columns)).astype(np.float32)],
        "mini-r1": [m for m in shipped if m.ndim == 2 and m.shape[1] >= 32],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--columns", type=int, default=2048)
    options = parser.parse_args()
    sets = matrices_of(options.rows, options.columns)

    def show(name: str, bits: float, kind: str, through: Callable[[F32], F32]) -> None:
        errors = [f"{relative_error(matrices, through):.3f}" for matrices in sets.values()]
        print(f"| {name} | {bits:g} | {kind} | " + " | ".join(errors) + " |", flush=True)

    print("| Format | Bits | | " + " | ".join(sets) + " |")
    print("|---|---:|---|" + "---:|" * len(sets))
    for name in FORMS:
        if name == "float32":
            continue
        bits = FORMATS[name].bits_per_weight
        show(f"`{name}`", bits, "plain", partial(through_plain, name))
        if name in SEARCHES:
            show("", bits, "searched", partial(through_search, name))
    for table, levels in TABLES.items():
        show(table, 4.5, "searched", partial(through_table, levels))


if __name__ == "__main__":
    main()
