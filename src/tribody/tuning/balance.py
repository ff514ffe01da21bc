"""Norms and the matrices that read them, balanced: the same function, easier to round.

A few channels of the normalised stream are many times as strong as their neighbours.  In a group of
32 they set the scale of eight-bit activations for all others; and their columns of weights, which
matter most, are rounded as coarsely as the rest.  So each channel is divided by a factor in the
norm, and its columns are multiplied by it:

    factor = (input's size)^STRENGTH / (column's size)^(1 - STRENGTH),

rounded to a power of two, so that products, and all sums of them, keep their bits.

Source: G. Xiao et al., "SmoothQuant" (2022), for activations; J. Lin et al., "AWQ" (2023), for
weights.  No code was taken.
"""

from __future__ import annotations

import re

import numpy as np

from tribody.ops.table import F32
from tribody.tuning.fitting import importance_of
from tribody.tuning.trial import Trial

STRENGTH = 0.4
# SmolLM2 off its grid, rounded plainly, 320 tokens: KL 0.0076 and 0.528 in `w8g32` and `w4m32`;
# balanced 0.0028 and 0.255 at 0.3, 0.0026 and 0.252 at 0.4, 0.0028 and 0.269 at 0.5.

LARGEST = 6  # of the factors' exponents, either way: what calibration never saw is not lost

READERS = {
    "input_layernorm": r"self_attn\.(q_proj|q_a_proj|kv_a_proj_with_mqa)",
    "post_attention_layernorm": r"mlp\.gate_proj",
    "self_attn.q_a_layernorm": r"self_attn\.q_b_proj",
}


def balance(trial: Trial) -> None:
    """Rescale norms and matrices of a trial that has observed, and what was observed.

    A norm that a router reads too stays as it is.
    """
    for norm_name, names in _readers(trial).items():
        matrices = [trial.matrices[name] for name in names]
        if not all(matrix.counts.sum() for matrix in matrices):
            continue  # a drafter's, say
        values = [trial.values(name) for name in names]
        squares = np.mean(np.square(np.concatenate(values)), axis=0)
        factors = _factors(importance_of(matrices[0]), squares)
        trial.weights.vectors[norm_name] /= factors
        for name, rows in zip(names, values, strict=True):
            trial.replace(name, rows * factors, factors)


def _readers(trial: Trial) -> dict[str, list[str]]:
    found = {}
    for norm_name in trial.weights.vectors:
        layer = re.match(r"model\.layers\.\d+\.", norm_name)
        pattern = READERS.get(norm_name[layer.end() :]) if layer else None
        if layer is None or pattern is None:
            continue
        names = [n for n in trial.matrices if re.match(re.escape(layer[0]) + pattern, n)]
        if names:
            found[norm_name] = names
    return found


def _factors(inputs: F32, columns: F32) -> F32:
    """Powers of two (K,) from mean squares; 1 where one of them is zero."""
    known = (inputs > 0) & (columns > 0)
    wanted = STRENGTH * np.log2(np.where(known, inputs, 1))
    wanted -= (1 - STRENGTH) * np.log2(np.where(known, columns, 1))
    wanted /= 2  # of squares
    exponents = np.rint(wanted - (wanted[known].mean() if known.any() else 0))
    exponents = np.clip(np.where(known, exponents, 0), -LARGEST, LARGEST)
    return np.exp2(exponents).astype(np.float32)
