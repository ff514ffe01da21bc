"""Cases of weights and products for the case file: embed, rms_norm, linear, norm_mlp, moe.

The sizes and tolerances are those of tests/ops, whose tables these functions are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.native.case_file import Apart, Argument, Case, Expected, PackedWeights, Weights
from tests.ops import test_saturation
from tests.ops.cases import EPS, F64, Product, draw, mlp_tolerance, tolerance
from tests.ops.test_mlp import Experts, Formats, encode, moe_tolerance, weight
from tests.ops.test_saturation import ENDS, patterns, scales_of_one
from tribody.core.config import WeightFormat
from tribody.ops import reference
from tribody.ops.reference import ReferenceMatrix, mlp, normalize
from tribody.ops.table import F32
from tribody.precision import codes, quantize
from tribody.precision.codes import Parts

REFERENCE = reference.OPS
NORM_EPS = 1e-5

# The largest codes of the formats that do not fill their bytes.
LARGEST = {"w6g32": 63, "w5m32": 31, "w4m32": 15, "fp4g32": 15}


def joined(formats: Sequence[WeightFormat]) -> str:
    """ "w4m32-w8g32"; once, if all are the same."""
    return "-".join(formats if len(set(formats)) > 1 else formats[:1])


def matrix_of(weight_format: WeightFormat, parts: Parts, shape: tuple[int, ...]) -> ReferenceMatrix:
    matrix = REFERENCE.pack_codes(weight_format, parts, shape)
    assert isinstance(matrix, ReferenceMatrix)
    return matrix


def norm_error(normalized: F32) -> float:
    """How far a normalised value may be off: as tests/ops/test_norm.py, at the largest."""
    largest = float(np.abs(normalized).max(initial=0))
    return EPS * (float(np.sqrt(normalized.shape[-1])) / 2 + 4) * largest


def pack(name: str, weights: F32, weight_format: WeightFormat) -> Case:
    """The bytes of a packed matrix or stack, as precision/layout.py has them."""
    with np.errstate(over="ignore", invalid="ignore"):
        packed = encode(weights, weight_format).buffer
    arguments: dict[str, Argument] = {"weights": Weights(weights, weight_format)}
    return Case(f"pack {weight_format} {name}", "pack", arguments, {"bytes": Expected(packed)})


def embed(name: str, weights: F32, weight_format: WeightFormat) -> Case:
    """Every row of a packed table: packing and decoding give the reference's numbers."""
    ids = np.arange(len(weights), dtype=np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = encode(weights, weight_format).values
    arguments: dict[str, Argument] = {"table": Weights(weights, weight_format), "token_ids": ids}
    return Case(f"embed {weight_format} {name}", "embed", arguments, {"out": Expected(expected)})


def rms_norm(rng: np.random.Generator, rows: int, columns: int) -> Case:
    x, norm = draw(rng, (rows, columns), "outliers"), draw(rng, (columns,))
    expected = normalize(x, norm, NORM_EPS)
    # The mean of K squares, halved by the root, then four roundings.
    allowed = EPS * (np.sqrt(columns) / 2 + 4) * np.abs(expected) + np.finfo(np.float32).tiny
    return Case(
        f"rms_norm {rows}x{columns}",
        "rms_norm",
        {"x": Apart(x), "weight": norm, "eps": NORM_EPS},
        {"out": Expected(expected, allowed)},
    )


def linear(
    rng: np.random.Generator, case: Product, weight_format: WeightFormat, *, normed: bool = False
) -> Case:
    """x @ W.T, with the norm before it if `normed`."""
    x = draw(rng, (case.rows, case.columns), case.content)
    weights = draw(rng, (case.outputs, case.columns), case.content)
    encoded = encode(weights, weight_format)
    bias = draw(rng, (case.outputs,)) if case.bias else None
    residual = draw(rng, (case.rows, case.outputs)) if case.residual and not normed else None
    norm = 1 + draw(rng, (case.columns,)) if normed else None
    met = x if norm is None else normalize(x, norm, NORM_EPS)
    expected = np.empty((case.rows, case.outputs), np.float32)
    REFERENCE.linear(met, encoded, bias, residual, expected)
    input_error = 0.0 if norm is None else norm_error(met)
    allowed = tolerance(met, encoded, input_error=input_error)
    # bias and residual each round once more, at the size of the result.
    allowed = allowed + 4 * EPS * (np.abs(expected) + 1)
    operator = "linear" if norm is None else "norm_linear"
    return Case(
        f"{operator} {weight_format} {case}",
        operator,
        {
            "x": Apart(x) if case.strided else x,
            "weights": Weights(weights, weight_format),
            "bias": bias,
            "residual": None if residual is None else Apart(residual),
            "norm": norm,
            "eps": None if norm is None else NORM_EPS,
        },
        {"out": Expected(expected, allowed)},
    )


def spoiled(rng: np.random.Generator, weight_format: WeightFormat, value: float) -> Case:
    """One value that is not finite: its row shows it, the others do not."""
    x, weights = draw(rng, (9, 100)), draw(rng, (24, 100))
    encoded, expected = encode(weights, weight_format), np.empty((9, 24), np.float32)
    REFERENCE.linear(x, encoded, None, None, expected)
    allowed = tolerance(x, encoded)
    x[4, 70] = value
    expected[4] = np.nan
    arguments: dict[str, Argument] = {"x": x, "weights": Weights(weights, weight_format)}
    return Case(
        f"linear {weight_format} with {value}",
        "linear",
        arguments,
        {"out": Expected(expected, allowed)},
    )


def magnitude(weight_format: WeightFormat, size: float) -> Case:
    """Activations of any magnitude: zeros or the reference's codes, never garbage."""
    x = np.linspace(-1, 1, 64, dtype=np.float32)[None] * np.float32(size)
    weights = np.full((8, 64), 1 / 64, np.float32)
    encoded, expected = encode(weights, weight_format), np.empty((1, 8), np.float32)
    REFERENCE.linear(x, encoded, None, None, expected)
    arguments: dict[str, Argument] = {"x": x, "weights": Weights(weights, weight_format)}
    return Case(
        f"linear {weight_format} of {size}",
        "linear",
        arguments,
        {"out": Expected(expected, tolerance(x, encoded))},
    )


def saturation(weight_format: WeightFormat, rows: int) -> Case:
    """Codes and activations at their ends, as tests/ops/test_saturation.py has them."""
    low, high = ENDS[weight_format]
    shape = test_saturation.ROWS, test_saturation.COLUMNS
    dtype = codes.FORMS[weight_format].parts[0].dtype
    ends = patterns(low, high, shape[0]).reshape(shape[0], -1, 32).astype(dtype)
    packed = matrix_of(weight_format, (ends, *scales_of_one(weight_format)), shape)
    x = patterns(-127, 127, rows)
    expected = (x @ packed.values.T.astype(np.int64)).astype(np.float32)
    return Case(
        f"linear {weight_format} saturation, {rows} rows",
        "linear",
        {"x": x.astype(np.float32), "weights": PackedWeights(packed)},
        {"out": Expected(expected)},
    )


def random_parts(
    rng: np.random.Generator, weight_format: WeightFormat, shape: tuple[int, int]
) -> Parts:
    """Any codes that the format can hold, those that the plain quantizer never makes among them."""
    parts = []
    for form in codes.FORMS[weight_format].parts:
        size = form.shape(shape)
        if form.name == "codes":
            lowest = -127 if form.dtype is np.int8 else 0
            drawn = rng.integers(lowest, LARGEST.get(weight_format, 127), size, endpoint=True)
            if weight_format == "fp8b":
                drawn += rng.integers(0, 2, size) * 128 - (drawn == 127)
            part = drawn.astype(form.dtype)
        elif weight_format == "fp4g32":
            part = rng.integers(110, 140, size, np.uint8)
        elif form.dtype is np.uint8:
            part = rng.integers(0, 256, size, np.uint8)
        elif form.name == "bits":
            part = quantize.to_bfloat16_bits(rng.standard_normal(size, np.float32))
        else:
            part = rng.uniform(0.001, 1, size).astype(form.dtype)
        parts.append(part)
    return tuple(parts)


def linear_of_codes(rng: np.random.Generator, case: Product, weight_format: WeightFormat) -> Case:
    """x @ W.T where W is drawn as codes."""
    shape = case.outputs, case.columns
    parts = random_parts(rng, weight_format, shape)
    packed = matrix_of(weight_format, parts, shape)
    x = draw(rng, (case.rows, case.columns), case.content)
    expected = np.empty((case.rows, case.outputs), np.float32)
    REFERENCE.linear(x, packed, None, None, expected)
    allowed = tolerance(x, packed)
    if weight_format in ("w5m32", "w4m32"):
        # Both terms of scale * code - minimum round at their own size, and may cancel.
        for gone in (0, 2):
            kept = (np.zeros_like(part) if i == gone else part for i, part in enumerate(parts))
            allowed = allowed + tolerance(x, matrix_of(weight_format, tuple(kept), shape))
    return Case(
        f"linear {weight_format} of any codes {case.rows}x{case.columns}x{case.outputs}",
        "linear",
        {"x": Apart(x), "weights": PackedWeights(packed)},
        {"out": Expected(expected, allowed)},
    )


@dataclass(frozen=True)
class MlpSize:
    rows: int
    width: int
    inner: int


def norm_mlp(
    rng: np.random.Generator, size: MlpSize, formats: tuple[WeightFormat, WeightFormat]
) -> Case:
    x, norm = draw(rng, (size.rows, size.width)), 1 + weight(rng, (size.width,))
    gate_up, down = weight(rng, (2 * size.inner, size.width)), weight(rng, (size.width, size.inner))
    pair = encode(gate_up, formats[0]), encode(down, formats[1])
    normalized = normalize(x, norm, NORM_EPS)
    expected = x + mlp(normalized, *pair)
    allowed = mlp_tolerance(normalized, pair, input_error=norm_error(normalized))
    return Case(
        f"norm_mlp {joined(formats)} {size.rows}x{size.width}x{size.inner}",
        "norm_mlp",
        {
            "x": Apart(x),
            "norm": norm,
            "eps": NORM_EPS,
            "gate_up": Weights(gate_up, formats[0]),
            "down": Weights(down, formats[1]),
        },
        {"x": Expected(expected, allowed + np.spacing(np.abs(expected)))},
    )


def moe(case: Experts, formats: Formats, *, shared: bool = True) -> Case:
    """A mixture of experts, and an expert for all in formats of its own."""
    rng = np.random.default_rng(5)
    start = draw(rng, case.x.shape)
    expected = start.copy()
    matrices = (*case.routed, *case.shared)
    a, b, c, d = (encode(m, f) for m, f in zip(matrices, formats, strict=True))
    common = (c, d) if shared else None
    REFERENCE.moe(case.x, case.chosen, case.weights, (a, b), common, expected)
    allowed: F64 = moe_tolerance(case, (a, b), (c, d)) + EPS * (10 + np.abs(expected))
    packed = [Weights(m, f) for m, f in zip(matrices, formats, strict=True)]
    num_experts, *down = case.routed[1].shape
    return Case(
        f"moe {joined(formats if shared else formats[:2])} {len(case.x)} rows, "
        f"{num_experts} of {down}, {case.chosen.shape[1]} a row",
        "moe",
        {
            "x": Apart(case.x),
            "experts": Apart(case.chosen),
            "weights": Apart(case.weights),
            "gate_up": packed[0],
            "down": packed[1],
            "shared_gate_up": packed[2] if shared else None,
            "shared_down": packed[3] if shared else None,
            "out": Apart(start),
        },
        {"out": Expected(expected, allowed)},
    )
