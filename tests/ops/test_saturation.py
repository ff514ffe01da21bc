"""Integer kernels at the ends of their codes, against sums of int64: no step may saturate or wrap.

Every weight and every activation is at an end of its range, in the orders that put the largest sums
into neighbouring places: vpmaddubsw adds pairs of neighbours, and with narrow codes several pairs
meet in 16 bits before they are widened.  Scales are 1 and all sums fit into float32, so results are
exact.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.ops.cases import A8_FORMATS
from tribody.core.config import WeightFormat
from tribody.ops import native
from tribody.precision import codes
from tribody.precision.codes import Parts
from tribody.precision.quantize import F32

ROWS, COLUMNS = 24, 576  # three panels: a pair and a single one

ENDS: dict[WeightFormat, tuple[int, int]] = {  # codes of the least and of the largest value
    "w8g32": (-127, 127),
    "w6g32": (0, 63),
    "w5m32": (0, 31),
    "w4m32": (0, 15),
    "fp4g32": (15, 7),
}


def scales_of_one(weight_format: WeightFormat) -> Parts:
    """All parts but the codes.  Minima are 1, too, so that they take part."""
    groups = (ROWS, COLUMNS // 32)
    if weight_format in ("w5m32", "w4m32"):
        halves = np.full(groups, 128, np.uint8)  # of units of 2
        units = np.full(ROWS, 2, np.float16)
        return halves, halves, units, units
    if weight_format == "fp4g32":
        return (np.full(groups, 127, np.uint8),)
    return (np.ones(groups, np.float16),)


def patterns(low: int, high: int, rows: int) -> NDArray[np.int64]:
    """(rows, COLUMNS): constant, alternating by one, two, four and eight, then random."""
    rng = np.random.default_rng(1)
    column = np.arange(COLUMNS)
    found = [np.full(COLUMNS, high), np.full(COLUMNS, low)]
    for period in (1, 2, 4, 8):
        found.append(np.where(column // period % 2 == 0, high, low))
        found.append(np.where(column // period % 2 == 0, low, high))
    while len(found) < rows:
        found.append(np.where(rng.random(COLUMNS) < 0.5, high, low))
    return np.array(found[:rows], np.int64)


@pytest.mark.parametrize("weight_format", A8_FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9, 16, 70])
def test_products_of_ends_are_exact(isa: str, rows: int, weight_format: WeightFormat) -> None:
    low, high = ENDS[weight_format]
    scales = scales_of_one(weight_format)
    dtype = codes.FORMS[weight_format].parts[0].dtype
    chosen = patterns(low, high, ROWS).reshape(ROWS, COLUMNS // 32, 32).astype(dtype)
    weights = native.OPS.pack_codes(weight_format, (chosen, *scales), (ROWS, COLUMNS))
    values = codes.decode(weight_format, (chosen, *scales), COLUMNS)
    assert np.array_equal(values, np.rint(values))
    tried = max(rows, 16)
    for first in range(0, tried, rows):
        x = patterns(-127, 127, tried)[first : first + rows]
        out: F32 = np.empty((len(x), ROWS), np.float32)
        native.OPS.linear(x.astype(np.float32), weights, None, None, out)
        np.testing.assert_array_equal(out, x @ values.T.astype(np.int64))


@pytest.mark.parametrize("weight_format", A8_FORMATS)
def test_activations_follow_the_sign_of_each_row(isa: str, weight_format: WeightFormat) -> None:
    """The largest positive and negative sum of every weight row, one after the other."""
    low, high = ENDS[weight_format]
    scales = scales_of_one(weight_format)
    dtype = codes.FORMS[weight_format].parts[0].dtype
    chosen = patterns(low, high, ROWS)
    parts = chosen.reshape(ROWS, COLUMNS // 32, 32).astype(dtype), *scales
    weights = native.OPS.pack_codes(weight_format, parts, (ROWS, COLUMNS))
    values = codes.decode(weight_format, parts, COLUMNS).astype(np.int64)
    along = np.where(chosen == high, 127, -127)
    for x in (along, -along):
        out: F32 = np.empty((ROWS, ROWS), np.float32)
        native.OPS.linear(x.astype(np.float32), weights, None, None, out)
        np.testing.assert_array_equal(out, x @ values.T)
