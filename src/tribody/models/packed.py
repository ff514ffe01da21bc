"""A model's weights as items of a packed file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tribody.models.weights import Weights
from tribody.ops.table import U8


@dataclass(frozen=True, slots=True)
class Item:
    """See `models.weights.PackedItem`, with its name."""

    key: str
    form: str
    shape: tuple[int, ...]
    data: U8


def packed_items(weights: Weights) -> list[Item]:
    """Everything that `PackedReader` will ask for.  Nothing is copied."""
    vectors = [
        Item(name, "vector", (vector.size,), vector.reshape(-1).view(np.uint8))
        for name, vector in weights.vectors.items()
    ]
    matrices = [
        Item(name, matrix.format, matrix.shape, matrix.buffer)
        for name, matrix in weights.matrices.items()
    ]
    return vectors + matrices
