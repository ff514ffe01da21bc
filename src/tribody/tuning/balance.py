"""Matrices and what feeds them, balanced: the same function, easier to round.

A few channels of the normalised stream are many times as strong as their neighbours.  In a group of
32 they set the scale of eight-bit activations for all others; and their columns of weights, which
matter most, are rounded as coarsely as the rest.  So each channel is divided by a factor where it
comes from, and its columns are multiplied by it:

    factor = (input's size)^STRENGTH / (column's size)^(1 - STRENGTH),

rounded to a power of two, so that products, and all sums of them, keep their bits.  A channel comes
from a norm; to down_proj from a row of up_proj, which its inputs are linear in; to o_proj from a
row of v_proj, or of latent attention's kv_b_proj.  What would then be rounded with larger errors
stays: weights that were published on a grid of four bits lie on none after it.

Source: G. Xiao et al., "SmoothQuant" (2022), for activations; J. Lin et al., "AWQ" (2023), for
weights.  No code was taken.
"""

from __future__ import annotations

import re

import numpy as np

from tribody.core.config import WeightFormat
from tribody.models.config import GroupedQuery
from tribody.ops.table import F32
from tribody.tuning.fitting import importance_of
from tribody.tuning.sensitivity import rounding_errors
from tribody.tuning.trial import Trial

STRENGTH = 0.4
# SmolLM2 off its grid, rounded plainly, 320 tokens: KL 0.0076 and 0.528 in `w8g32` and `w4m32`;
# with norms balanced 0.0028 and 0.255 at 0.3, 0.0026 and 0.252 at 0.4, 0.0028 and 0.269 at 0.5.
# On 1,533 other tokens norms alone gave 0.00246 and 0.240, with up at 0.2 to 0.5 0.00202, 0.00196,
# 0.00196, 0.00204 and 0.217, 0.209, 0.167, 0.166; values change nothing there.

LARGEST = 6  # of the factors' exponents, either way: what calibration never saw is not lost

READERS = {
    "input_layernorm": r"self_attn\.(q_proj|q_a_proj|kv_a_proj_with_mqa)",
    "post_attention_layernorm": r"mlp\.gate_proj",
    "self_attn.q_a_layernorm": r"self_attn\.q_b_proj",
}


def balance(trial: Trial, coarse: WeightFormat) -> None:
    """Rescale norms and matrices of a trial that has observed, and what was observed.

    `coarse`: the format that columns must be rounded to with smaller errors than before.
    A norm that a router reads too stays as it is, and so does what no text met: a drafter, say.
    """
    for norm_name, names in _readers(trial).items():
        if all(trial.matrices[name].counts.sum() for name in names):
            _with_norm(trial, norm_name, names, coarse)
    for name, matrix in trial.matrices.items():
        if matrix.counts.sum() and name.endswith(".down_proj"):
            _with_up(trial, name, coarse)
        elif matrix.counts.sum() and name.endswith(".o_proj"):
            _with_values(trial, name, coarse)


def _with_norm(trial: Trial, norm_name: str, names: list[str], coarse: WeightFormat) -> None:
    """All matrices that read a norm, together."""
    values = [trial.values(name) for name in names]
    squares = np.mean(np.square(np.concatenate(values)), axis=0)
    importance = importance_of(trial.matrices[names[0]])
    factors = _factors(importance, squares)
    if not _helps(np.concatenate(values), importance, factors, coarse):
        return
    trial.weights.vectors[norm_name] /= factors
    for name, rows in zip(names, values, strict=True):
        trial.replace(name, rows * factors, factors)


def _with_up(trial: Trial, name: str, coarse: WeightFormat) -> None:
    """down_proj with up_proj; of a stack, each expert's with its own."""
    values, importance = trial.values(name), importance_of(trial.matrices[name])
    factors = _factors(importance, np.mean(np.square(values), axis=-2))
    if not _helps(values, importance, factors, coarse):
        return
    trial.replace(name, values * factors[..., None, :], factors)
    source = f"{name.removesuffix('down_proj')}gate_proj+up_proj"
    rows = trial.values(source)
    rows[..., factors.shape[-1] :, :] /= factors[..., None]
    trial.replace(source, rows)


def _with_values(trial: Trial, name: str, coarse: WeightFormat) -> None:
    """o_proj with v_proj, a row of which feeds a column of every head of its group."""
    values, attention = trial.values(name), trial.config.attention
    heads = groups = attention.num_attention_heads
    if isinstance(attention, GroupedQuery):
        groups = attention.num_key_value_heads

    def by_row(columns: F32) -> F32:
        rows: F32 = columns.reshape(groups, heads // groups, -1).mean(axis=1).reshape(-1)
        return rows

    importance, squares = importance_of(trial.matrices[name]), np.mean(np.square(values), axis=0)
    factors = _factors(by_row(importance), by_row(squares))
    by_group = factors.reshape(groups, 1, -1)
    columns = np.broadcast_to(by_group, (groups, heads // groups, by_group.shape[-1])).reshape(-1)
    if not _helps(values, importance, columns, coarse):
        return
    trial.replace(name, values * columns, columns)
    prefix = name.removesuffix("o_proj")
    if isinstance(attention, GroupedQuery):
        _divide_grouped(trial, prefix, factors)
    else:
        _divide_latent(trial, prefix, by_group[:, 0])


def _divide_grouped(trial: Trial, prefix: str, factors: F32) -> None:
    """Rows, and their biases, of v_proj."""
    name = f"{prefix}q_proj+k_proj+v_proj"
    rows = trial.values(name)
    rows[-len(factors) :] /= factors[:, None]
    trial.replace(name, rows)
    bias = trial.weights.vectors.get(f"{prefix}q_proj.bias+bias+bias")
    if bias is not None:
        bias[-len(factors) :] /= factors


def _divide_latent(trial: Trial, prefix: str, factors: F32) -> None:
    """Rows of kv_b_proj that give values, factors (H, Dv), and of their copy."""
    heads, width = factors.shape
    rows = trial.values(f"{prefix}kv_b_proj")
    rows.reshape(heads, -1, rows.shape[1])[:, -width:] /= factors[..., None]
    trial.replace(f"{prefix}kv_b_proj", rows)
    trial.replace(f"{prefix}w_uv", trial.values(f"{prefix}w_uv") / factors[..., None])


def _helps(values: F32, importance: F32, factors: F32, coarse: WeightFormat) -> bool:
    """Whether columns times factors are rounded more finely, for inputs divided by them."""
    before = rounding_errors(values, importance, [coarse])[coarse]
    scaled, weaker = values * factors[..., None, :], importance / (factors * factors)
    return rounding_errors(scaled, weaker, [coarse])[coarse] < before


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
    """Powers of two from mean squares (..., K); 1 where one of them is zero."""
    known = (inputs > 0) & (columns > 0)
    wanted = STRENGTH * np.log2(np.where(known, inputs, 1))
    wanted -= (1 - STRENGTH) * np.log2(np.where(known, columns, 1))
    wanted /= 2  # of squares
    count = np.maximum(known.sum(axis=-1, keepdims=True), 1)
    exponents = np.rint(wanted - wanted.sum(axis=-1, keepdims=True) / count)
    exponents = np.clip(np.where(known, exponents, 0), -LARGEST, LARGEST)
    factors: F32 = np.exp2(exponents).astype(np.float32)
    return factors
