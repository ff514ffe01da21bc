"""The table of cases for weights and products, and the one place where their tolerance is computed.

Sizes are chosen for their remainders: K against groups of 32 and lanes of 8, N against panels of 8
and 16, T against row tiles of 4 and 8 and row chunks of 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.ops.reference import ReferenceMatrix, matmul
from tribody.ops.table import F32

EPS = float(np.finfo(np.float32).eps)
FORMATS: tuple[WeightFormat, ...] = ("float32", "bfloat16", "float16", "w8g32")
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
        # Every byte becomes +127 or -127: the largest sums that int8 arithmetic must hold.
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
    x: F32, matrix: ReferenceMatrix, *, input_ulps: float = 0, expert: int | None = None
) -> F32:
    """How far two float32 computations of x @ W.T may be apart, per element (T, N).

    Rounding: a sum of K terms in any order is off by about eps sqrt(K) times the norm of its terms
    (random signs; the worst case is eps K); |x| |w| bounds that norm, and 4 covers both sides
    and the tail.  `input_ulps`: how many units x itself may be off, which shifts the result by as
    much again.  With w8g32 a shifted input may also fall on the other side of a rounding edge: of K
    inputs, about K * 127 * input_ulps * eps do, and each moves one byte by one step.
    """
    values = matrix.values if expert is None else matrix.values[expert]
    length = x.shape[-1]
    x = x.astype(np.float64)
    norms = np.outer(np.linalg.norm(x, axis=-1), np.linalg.norm(values, axis=-1))
    bound = 4 * EPS * (np.sqrt(length) + input_ulps) * norms
    if matrix.format == "w8g32" and input_ulps:
        flips = 2 + 4 * length * 127 * input_ulps * EPS
        steps = np.abs(x).max(axis=-1, initial=0) / 127
        bound = bound + flips * np.outer(steps, np.abs(values).max(axis=-1, initial=0))
    result: F32 = bound.astype(np.float32) + np.finfo(np.float32).tiny
    return result


def mlp_tolerance(
    normalized: F32, hidden: F32, pair: tuple[ReferenceMatrix, ReferenceMatrix], expert: int | None
) -> F32:
    """The tolerance of (silu(g) * u) @ down.T, where g and u are products themselves.

    An error of g and u of relative size r moves silu(g) * u by about as much; r is the products'
    tolerance over their typical size, in ulps.
    """
    gate_up, down = pair
    wide = matmul(normalized, gate_up, expert)
    first = tolerance(normalized, gate_up, input_ulps=8, expert=expert)
    scale = np.sqrt(np.mean(np.square(wide))) + np.finfo(np.float32).tiny
    ulps = float(np.sqrt(np.mean(np.square(first))) / scale / EPS)
    return tolerance(hidden, down, input_ulps=min(ulps, 1 / EPS / 127), expert=expert)


def assert_close(actual: F32, expected: F32, allowed: F32 | NDArray[np.float64]) -> None:
    """|actual - expected| <= allowed everywhere; says where it is not."""
    assert actual.shape == expected.shape
    if actual.size == 0:
        return
    excess = np.abs(actual.astype(np.float64) - expected) / allowed
    worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
    assert excess[worst] <= 1, (
        f"{excess[worst]:.2f} x tolerance at {worst}: {actual[worst]} for {expected[worst]}"
    )
