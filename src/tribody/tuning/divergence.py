"""KL divergence to kept reference distributions, row by row, in bounded memory."""

from __future__ import annotations

import numpy as np

from tribody.core.errors import EngineFailed
from tribody.ops.table import F32
from tribody.quality.statistics import F64

ROWS_AT_ONCE = 64  # of 129,280 float32 are 33 MB


def log_softmax(logits: F32) -> F32:
    """Natural-log probabilities (R, V), float32; the sum is taken in float64.

    Raises: EngineFailed when a row is not finite.
    """
    out = np.empty(logits.shape, np.float32)
    for first in range(0, len(logits), ROWS_AT_ONCE):
        rows = logits[first : first + ROWS_AT_ONCE]
        shifted = rows - rows.max(axis=1, keepdims=True)
        sums = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
        out[first : first + ROWS_AT_ONCE] = shifted - np.log(sums)
    if not np.isfinite(out).all():
        raise EngineFailed("the model computed NaN or infinity in this format; leave it out")
    return out


def divergence(reference: F32, logits: F32) -> F64:
    """KL(reference || softmax(logits)) in nats, float64 (R,); `reference` are log-probabilities.

    Rounding may leave a value below zero by about 1e-7.
    """
    out = np.empty(len(logits), np.float64)
    for first in range(0, len(logits), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        expected = reference[rows]
        difference = expected - log_softmax(logits[rows])
        out[rows] = np.einsum("rv,rv->r", np.exp(expected), difference, dtype=np.float64)
    return out
