"""The table of cases for weights and products, and the one place where their tolerance is computed.

Sizes are chosen for their remainders: K against groups of 32, tiles of 128 and lanes of 8, N
against panels of 8 and 16, T against row tiles of 4 and 8 and row chunks of 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.ops.reference import ReferenceMatrix, matmul, silu
from tribody.ops.table import F32
from tribody.precision import formats

F64 = NDArray[np.float64]
EPS = float(np.finfo(np.float32).eps)
FORMATS: tuple[WeightFormat, ...] = tuple(formats.FORMATS)
A8_FORMATS = tuple(f for f in FORMATS if formats.FORMATS[f].takes_a8)
ROWS = (0, 1, 3, 9, 130)

Content = Literal["normal", "outliers", "extremes", "zeros"]


@dataclass(frozen=True)
class Product:
    """x (T, K) @ W (N, K).T"""

    rows: int
    columns: int
    outputs: int
    content: Content = "normal"
    bias: bool = False
    residual: bool = False
    strided: bool = False  # rows of x and out are views of wider arrays

    def __str__(self) -> str:
        marks = [m for m in ("bias", "residual", "strided") if getattr(self, m)]
        return "-".join([f"{self.rows}x{self.columns}x{self.outputs}", self.content, *marks])


PRODUCTS = [
    *(Product(t, 576, 48) for t in ROWS),
    Product(1, 576, 960, bias=True),
    Product(9, 576, 25, bias=True, residual=True),
    Product(3, 1536, 40, residual=True),
    Product(70, 1536, 24, strided=True),
    *(Product(t, 33, 17, bias=True, residual=True, strided=True) for t in ROWS),
    *(Product(t, 1, 1) for t in (0, 1, 3, 9)),
    *(Product(t, 100, 96) for t in (2, 4, 5, 6, 7, 8, 12)),
    Product(5, 576, 31, "outliers"),
    Product(9, 576, 40, "extremes"),
    Product(1, 1536, 40, "extremes"),
    Product(3, 64, 16, "zeros"),
]


def draw(rng: np.random.Generator, shape: tuple[int, ...], content: Content = "normal") -> F32:
    if content == "zeros":
        return np.zeros(shape, np.float32)
    if content == "extremes":
        # Every activation byte becomes +127 or -127, every weight the largest of its format or its
        # opposite; test_saturation.py takes the codes themselves to their ends.
        return np.where(rng.random(shape) < 0.9, 1, -1).astype(np.float32)
    values = rng.standard_normal(shape, dtype=np.float32)
    if content == "outliers":
        values[..., :: max(1, shape[-1] // 7)] *= 100
    return values


def rows_of(values: F32, *, strided: bool) -> F32:
    """The same values, as a view whose rows are further apart than they are long."""
    if not strided:
        return values
    wide = np.full((len(values), values.shape[1] + 5), np.nan, np.float32)
    wide[:, 2 : 2 + values.shape[1]] = values
    return wide[:, 2 : 2 + values.shape[1]]


def tolerance(
    x: F32, matrix: ReferenceMatrix, *, input_error: float = 0, expert: int | None = None
) -> F64:
    """How far two float32 computations of x @ W.T may be apart, per element (T, N).

    Rounding: a sum of K terms in any order is off by about eps sqrt(K) times the norm of its terms
    (random signs; the worst case is eps K); |x| |w| bounds that norm, and 4 covers both sides
    and the tail.  `input_error`: how far each x may itself be off, which shifts the result by
    sqrt(K) times as much, times |w|.  With A8 a shifted input may also fall on the other side of
    a rounding edge: of K inputs about 2 K input_error / step do (the share of values that lie so
    near to an edge), and each moves by one step; two are allowed in any case.
    """
    values = matrix.values if expert is None else matrix.values[expert]
    length = x.shape[-1]
    wide = x.astype(np.float64)
    w_norms = np.linalg.norm(values, axis=-1)
    bound = 4 * EPS * np.sqrt(length) * np.outer(np.linalg.norm(wide, axis=-1), w_norms)
    bound = bound + 4 * input_error * w_norms
    if formats.FORMATS[matrix.format].takes_a8 and input_error:
        steps = np.abs(wide).max(axis=-1, initial=0) / 127 + np.finfo(np.float32).tiny
        flips = 2 + 4 * length * input_error / steps
        bound = bound + np.outer(flips * steps, np.abs(values).max(axis=-1, initial=0))
    result: F64 = bound + np.finfo(np.float32).tiny
    return result


def mlp_tolerance(
    x: F32,
    pair: tuple[ReferenceMatrix, ReferenceMatrix],
    expert: int | None = None,
    *,
    input_error: float = 0,
) -> F64:
    """The tolerance of (silu(g) * u) @ down.T, [g | u] = x @ gate_up.T, x off by input_error.

    silu's slope is below 1.1, so an error of g shifts the hidden value by 1.1 |u| times as much,
    one of u by |silu(g)|; the exponential and three roundings add 4 units.
    """
    gate_up, down = pair
    gate, up = np.split(matmul(x, gate_up, expert), 2, axis=-1)
    allowed = tolerance(x, gate_up, input_error=input_error, expert=expert)
    gate_error, up_error = np.split(allowed, 2, axis=-1)
    hidden = silu(gate) * up
    error = 1.1 * np.abs(up) * gate_error + np.abs(silu(gate)) * up_error
    error = error + 4 * EPS * np.abs(hidden)
    return tolerance(hidden, down, input_error=float(error.max(initial=0)), expert=expert)


def assert_close(actual: F32, expected: F32 | F64, allowed: F32 | F64) -> None:
    """|actual - expected| <= allowed everywhere; says where it is not."""
    assert actual.shape == expected.shape
    if actual.size == 0:
        return
    excess = np.abs(actual.astype(np.float64) - expected) / allowed
    worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
    assert excess[worst] <= 1, (
        f"{excess[worst]:.2f} x tolerance at {worst}: {actual[worst]} for {expected[worst]}"
    )
