"""Activation buffers that outlive a step, so that a step of a usual size allocates none."""

from __future__ import annotations

import numpy as np

from tribody.ops.table import F32


class Scratch:
    """Buffers that grow to the largest step seen and are then only sliced."""

    def __init__(self) -> None:
        self._buffers: dict[str, F32] = {}

    def rows(self, name: str, count: int, width: int) -> F32:
        """(count, width) float32, contents undefined; overwritten by the next call of `name`."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < count:
            buffer = self._buffers[name] = np.empty((count, width), np.float32)
        return buffer[:count]
