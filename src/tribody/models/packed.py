"""A model's weights as items of a packed file."""

from __future__ import annotations

import numpy as np

from tribody.models.weights import Weights
from tribody.precision.packed_item import VECTOR, PackedItem


def packed_items(weights: Weights) -> list[PackedItem]:
    """Everything that `PackedReader` will ask for.  Nothing is copied."""
    vectors = [
        PackedItem(name, VECTOR, (vector.size,), vector.reshape(-1).view(np.uint8))
        for name, vector in weights.vectors.items()
    ]
    matrices = [
        PackedItem(name, matrix.format, matrix.shape, matrix.buffer)
        for name, matrix in weights.matrices.items()
    ]
    return vectors + matrices
