"""How far two float32 computations of the same logits may lie apart: one function for all tests.

A sum of K rounded products has a relative error of about sqrt(K) * eps (errors of random sign); a
decoder layer does about eight such steps one after the other (norms, projections, scores, softmax,
values), each adding an independent error to the residual stream.  So

    bound = SAFETY * eps * sqrt(K) * sqrt(8 * layers + 2) * rms(logits)     K = the longest sum

SAFETY 6 is 4 for the largest of about 10,000 logits instead of the typical one (a normal variable
exceeds four standard deviations once in 16,000), times 1.5 for gains above one on the way (scaled
experts).  Rotary angles add eps * position per pair, which is below the rest at tests' positions.
Measured on the tiny models: 0.04 to 0.4 of the bound.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SAFETY = 6.0
STEPS_PER_LAYER = 8


def logits_tolerance(
    config: dict[str, object], expected: NDArray[np.float32], eps: float = 2.0**-23
) -> float:
    """The largest difference allowed for logits of this model."""
    layers, longest = config["num_hidden_layers"], 1
    for key in ("hidden_size", "intermediate_size", "moe_intermediate_size"):
        size = config.get(key, 1)
        assert isinstance(size, int)
        longest = max(longest, size)
    assert isinstance(layers, int)
    rms = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return SAFETY * eps * math.sqrt(longest * (STEPS_PER_LAYER * layers + 2)) * rms
