"""The operator table over the C++ kernels of native/.

Methods only put arguments in order: bindings.cc checks shapes, dtypes and strides and raises
ShapeError.  The kernels take the fastest instruction set that the machine has.
"""

from __future__ import annotations

from tribody import _native
from tribody.core.config import WeightFormat
from tribody.ops.table import F32, Matrix


class NativeOps:
    """The table filled with native kernels.  Contracts stand in `ops.table`."""

    name = "native"

    def pack(self, weights: F32, weight_format: WeightFormat) -> Matrix:
        matrix: Matrix = _native.pack(weights, weight_format)
        return matrix


OPS = NativeOps()
