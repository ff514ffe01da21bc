"""Every run-time format as its parts: the arrays of codes and scales that a matrix stands for.

Parts are what a quantizer makes and what `Ops.pack_codes` takes, before any layout.  For a matrix
(N, K), or a stack (E, N, K) with E in front of every part, and G = ceil(K / 32):

    float32         values float32 (N, K)
    bfloat16        bits uint16 (N, K)
    float16         values float16 (N, K)
    w8g32           codes int8 (N, G, 32) in [-127, 127], scales float16 (N, G)
    w6g32           codes uint8 (N, G, 32) in [0, 63], scales float16 (N, G)
    w5m32, w4m32    codes uint8 (N, G, 32) in [0, 31] or [0, 15], scales uint8 (N, G),
                    minima uint8 (N, G), scale units float16 (N), minimum units float16 (N)
    fp4g32          codes uint8 (N, G, 32) in [0, 15], scales uint8 (N, G), not 255
    fp8b            codes uint8 (N, K), not 0x7F or 0xFF, scales float32 (N, ceil(K / 128))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.core.errors import BadModel, ShapeError
from tribody.precision import float_codes, minimum, quantize
from tribody.precision.quantize import F32, GROUP_SIZE

Parts = tuple[NDArray[np.generic], ...]

Axes = Literal["columns", "groups of 32", "groups", "tiles of 128", "row"]


def _trailing(axes: Axes, columns: int) -> tuple[int, ...]:
    """The axes that follow those of the rows."""
    groups = -(-columns // GROUP_SIZE)
    sizes: dict[Axes, tuple[int, ...]] = {
        "columns": (columns,),
        "groups of 32": (groups, GROUP_SIZE),
        "groups": (groups,),
        "tiles of 128": (-(-columns // float_codes.FP8_COLUMNS),),
        "row": (),
    }
    return sizes[axes]


@dataclass(frozen=True, slots=True)
class Part:
    """One array: its element type, its axes after those of the rows, and what is refused.

    `refused` of an array is True where an element cannot be held; `why` says which those are.
    """

    name: str
    dtype: type[np.generic]
    axes: Axes
    why: str = ""
    refused: Callable[[NDArray[Any]], NDArray[np.bool_]] | None = None

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of this part of a matrix (N, K) or a stack (E, N, K)."""
        return (*shape[:-1], *_trailing(self.axes, shape[-1]))


@dataclass(frozen=True, slots=True)
class Form:
    """One format: its parts, the plain quantizer, and what the parts stand for."""

    parts: tuple[Part, ...]
    encode: Callable[[F32], Parts]
    decode: Callable[..., F32]  # (*parts, columns)


def _codes_to(largest: int) -> Part:
    limit = np.uint8(largest)
    return Part(
        "codes", np.uint8, "groups of 32", f"above {largest}", lambda a: np.asarray(a > limit)
    )


def _minimum_parts(largest: int) -> tuple[Part, ...]:
    return (
        _codes_to(largest),
        Part("scales", np.uint8, "groups"),
        Part("minima", np.uint8, "groups"),
        Part("scale units", np.float16, "row"),
        Part("minimum units", np.float16, "row"),
    )


def _encode_float16(weights: F32) -> Parts:
    with np.errstate(over="ignore"):
        return (weights.astype(np.float16),)


FORMS: dict[WeightFormat, Form] = {
    "float32": Form(
        (Part("values", np.float32, "columns"),),
        lambda weights: (np.array(weights, np.float32),),
        lambda values, columns: values,
    ),
    "bfloat16": Form(
        (Part("bits", np.uint16, "columns"),),
        lambda weights: (quantize.to_bfloat16_bits(np.ascontiguousarray(weights)),),
        lambda bits, columns: quantize.from_bfloat16_bits(bits),
    ),
    "float16": Form(
        (Part("values", np.float16, "columns"),),
        _encode_float16,
        lambda values, columns: values.astype(np.float32),
    ),
    "w8g32": Form(
        (
            Part("codes", np.int8, "groups of 32", "-128", lambda array: array == np.int8(-128)),
            Part("scales", np.float16, "groups"),
        ),
        quantize.quantize_w8g32,
        quantize.dequantize_w8g32,
    ),
    "w6g32": Form(
        (_codes_to(63), Part("scales", np.float16, "groups")),
        quantize.quantize_w6g32,
        quantize.dequantize_w6g32,
    ),
    "w5m32": Form(
        _minimum_parts(minimum.LEVELS_W5), minimum.quantize_w5m32, minimum.dequantize_minimum
    ),
    "w4m32": Form(
        _minimum_parts(minimum.LEVELS_W4), minimum.quantize_w4m32, minimum.dequantize_minimum
    ),
    "fp4g32": Form(
        (
            _codes_to(15),
            Part(
                "scales",
                np.uint8,
                "groups",
                "255 (NaN)",
                lambda array: array == np.uint8(float_codes.UE8M0_NAN),
            ),
        ),
        float_codes.quantize_fp4g32,
        float_codes.dequantize_fp4g32,
    ),
    "fp8b": Form(
        (
            Part(
                "codes",
                np.uint8,
                "columns",
                "0x7F or 0xFF (NaN)",
                lambda array: (array & np.uint8(0x7F)) == np.uint8(0x7F),
            ),
            Part("scales", np.float32, "tiles of 128"),
        ),
        float_codes.quantize_fp8b,
        float_codes.dequantize_fp8b,
    ),
}


def encode(weights: F32, weight_format: WeightFormat) -> Parts:
    """The plain quantizer: float32 (..., N, K) to parts, every number rounded to nearest."""
    return FORMS[weight_format].encode(weights)


def decode(weight_format: WeightFormat, parts: Parts, columns: int) -> F32:
    """What the parts stand for, float32 (..., N, columns)."""
    with np.errstate(invalid="ignore"):  # groups that are not finite: 0 * Inf is the NaN they are
        values: F32 = FORMS[weight_format].decode(*parts, columns)
    return values


def check_parts(weight_format: WeightFormat, parts: Parts, shape: Sequence[int]) -> None:
    """Refuse parts that do not fit a matrix or stack of this shape.

    Raises: ShapeError for their number, a dtype or a shape; BadModel for an element that the format
    cannot hold, which a checkpoint may bring.
    """
    expected = FORMS[weight_format].parts
    if len(parts) != len(expected):
        raise ShapeError(f"{weight_format}: {len(parts)} parts, expected {len(expected)}")
    for part, array in zip(expected, parts, strict=True):
        if array.dtype != part.dtype or array.shape != part.shape(shape):
            raise ShapeError(
                f"{weight_format}: {part.name} are {array.dtype} {array.shape}, expected "
                f"{np.dtype(part.dtype)} {part.shape(shape)}"
            )
    for part, array in zip(expected, parts, strict=True):
        if part.refused is not None:
            count = int(np.count_nonzero(part.refused(array)))
            if count:
                raise BadModel(f"{weight_format}: {count} {part.name} are {part.why}")
