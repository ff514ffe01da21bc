"""Mean pooling: the hidden states of a prompt, summed as its chunks are computed, made a vector.

Rows are added one by one in float64, in the order of positions, so that a sum is the same bits
however the prompt was cut into chunks.
"""

from __future__ import annotations

import numpy as np

from tribody.core.request import Chunk
from tribody.ops.table import F32


def add_states(chunk: Chunk, states: F32) -> bytes:
    """The chunk's sum with its own states (T, hidden_size); what `StepResult.hidden_sums` holds.

    The mean and the sum have one direction, and only that is left of an embedding.
    """
    assert chunk.hidden_sum is not None, "a chunk of a request without pooling"
    total = np.zeros(states.shape[1])
    if chunk.hidden_sum:
        total += np.frombuffer(chunk.hidden_sum)
    for row in states:
        total += row
    return total.tobytes() if chunk.next_token_id is not None else _unit_vector(total)


def _unit_vector(total: np.ndarray) -> bytes:
    length = float(np.sqrt(np.square(total).sum()))
    if not (np.isfinite(length) and length > 0):
        return b""
    return (total / length).astype("<f4").tobytes()
