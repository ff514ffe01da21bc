"""GGUF's tensor types: block sizes and their decoding to float32 in vectorised NumPy.

Layouts (all little-endian; d, m and dmin are float16; q are unsigned fields; a block of 32 stores
its low nibbles for elements 0..15 and its high nibbles for 16..31):

    Q8_0  32 elements,  34 B   d, int8 q[32]                          x = d q
    Q4_0  32 elements,  18 B   d, nibbles[16]                         x = d (q - 8)
    Q4_1  32 elements,  20 B   d, m, nibbles[16]                      x = d q + m
    Q5_0  32 elements,  22 B   d, high bits u32, nibbles[16]          x = d (q - 16)
    Q5_1  32 elements,  24 B   d, m, high bits u32, nibbles[16]       x = d q + m
    Q4_K 256 elements, 144 B   d, dmin, packed 6-bit (scale, min)[8], nibbles[128]
                               x = (d scale) q - (dmin min), 8 groups of 32
    Q5_K 256 elements, 176 B   as Q4_K with high bits[32] before the nibbles
    MXFP4 32 elements, 17 B    scale byte e, nibbles[16] of E2M1     x = 2^(e - 127) value
    Q6_K 256 elements, 210 B   low nibbles[128], high pairs[64], int8 scale[16], d
                               x = (d scale) (q - 32), 16 groups of 16

Source: the GGUF specification and the comments of ggml-common.h; written anew.  The products are
formed in the order above in float32, so the results are bit-equal to the reference decoder
(tests/loading/data/gguf_types.npz holds its output).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tribody.loading.plain_types import decode_bf16, decode_f16, decode_f32
from tribody.precision.float_codes import E2M1_VALUES, power_of_two

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_CHUNK_BYTES = 1 << 18
# Blocks are decoded in chunks so that the intermediate arrays stay small and in cache.  SmolLM2's
# 98 MB on a 2-core virtual machine: 0.28 s with 256 KiB, 0.33 s in one piece.


def _half(blocks: Bytes, start: int) -> Floats:
    """The float16 at byte `start` of every block, as a column (N, 1)."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, group: int) -> Bytes:
    """Unpack runs of `group` bytes to the low nibbles of the run, then its high nibbles."""
    runs = packed.reshape(packed.shape[0], -1, 1, group)
    shifts = np.array([0, 4], dtype=np.uint8).reshape(1, 1, 2, 1)
    return ((runs >> shifts) & np.uint8(0x0F)).reshape(packed.shape[0], -1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """The 32 high bits of Q5_0 and Q5_1, bit i for element i, moved to bit 4."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q8_0(blocks: Bytes) -> Floats:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * _half(blocks, 0)


def _q4_0(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 2:], 16).view(np.int8) - np.int8(8)
    return codes.astype(np.float32) * _half(blocks, 0)


def _q4_1(blocks: Bytes) -> Floats:
    values = _nibbles(blocks[:, 4:], 16).astype(np.float32)
    values *= _half(blocks, 0)
    values += _half(blocks, 2)
    return values


def _q5_0(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])
    return (codes.view(np.int8) - np.int8(16)).astype(np.float32) * _half(blocks, 0)


def _q5_1(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])
    values = codes.astype(np.float32)
    values *= _half(blocks, 0)
    values += _half(blocks, 2)
    return values


def _six_bit_pairs(packed: Bytes) -> tuple[Floats, Floats]:
    """The 8 scales and 8 mins of Q4_K and Q5_K from their 12 bytes, as (N, 8, 1) each.

    Bytes 0..3 hold scales 0..3 in their low six bits, bytes 4..7 mins 0..3; bytes 8..11 hold the
    low nibbles of scales 4..7 (low) and mins 4..7 (high), whose upper two bits are the upper two
    bits of bytes 0..3 and 4..7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | ((first >> 6) << 4)], axis=1)
    mins = np.concatenate([second & 0x3F, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales.astype(np.float32)[..., None], mins.astype(np.float32)[..., None]


def _scaled_groups(blocks: Bytes, codes: Bytes) -> Floats:
    """x = (d scale) q - (dmin min) over 8 groups of 32; the head of Q4_K and Q5_K is the same."""
    scales, mins = _six_bit_pairs(blocks[:, 4:16])
    scales *= _half(blocks, 0)[..., None]
    mins *= _half(blocks, 2)[..., None]
    values = codes.reshape(-1, 8, 32).astype(np.float32)
    values *= scales
    values -= mins
    return values


def _q4_k(blocks: Bytes) -> Floats:
    return _scaled_groups(blocks, _nibbles(blocks[:, 16:], 32))


def _q5_k(blocks: Bytes) -> Floats:
    # Bit g of high byte i belongs to element i of group g.
    shifts = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = (blocks[:, None, 16:48] >> shifts) & np.uint8(1)
    codes = _nibbles(blocks[:, 48:], 32).reshape(-1, 8, 32) | (high << np.uint8(4))
    return _scaled_groups(blocks, codes)


def _q6_k(blocks: Bytes) -> Floats:
    # Each half of 128 elements: 64 low bytes and 32 high bytes; the elements come in four runs of
    # 32: low nibbles of the first 32 bytes, of the next 32, then the high nibbles of both; run r
    # takes bits 2r and 2r + 1 of the high bytes.
    low = _nibbles(blocks[:, :128], 64).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3
    codes = (low | (high << 4)).view(np.int8) - np.int8(32)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32) * _half(blocks, 208)
    return codes.reshape(-1, 16, 16).astype(np.float32) * scales[..., None]


def _mxfp4(blocks: Bytes) -> Floats:
    scales = power_of_two(np.ascontiguousarray(blocks[:, :1]))
    # A negative zero becomes zero, as in the reference decoder.
    return E2M1_VALUES[_nibbles(blocks[:, 1:], 16)] * scales + np.float32(0)


@dataclass(frozen=True)
class GgufType:
    """A tensor type: its name in messages, elements and bytes per block, and its decoder."""

    name: str
    block_elements: int
    block_bytes: int
    decode: Callable[[Bytes], Floats]


GGUF_TYPES = {
    0: GgufType("F32", 1, 4, decode_f32),
    1: GgufType("F16", 1, 2, decode_f16),
    2: GgufType("Q4_0", 32, 18, _q4_0),
    3: GgufType("Q4_1", 32, 20, _q4_1),
    6: GgufType("Q5_0", 32, 22, _q5_0),
    7: GgufType("Q5_1", 32, 24, _q5_1),
    8: GgufType("Q8_0", 32, 34, _q8_0),
    12: GgufType("Q4_K", 256, 144, _q4_k),
    13: GgufType("Q5_K", 256, 176, _q5_k),
    14: GgufType("Q6_K", 256, 210, _q6_k),
    30: GgufType("BF16", 1, 2, decode_bf16),
    39: GgufType("MXFP4", 32, 17, _mxfp4),
}

UNSUPPORTED_TYPES = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16",
    26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
}  # fmt: skip
"""Types that exist but are refused, so that the message can name them."""


def dequantize(kind: GgufType, raw: Bytes) -> Floats:
    """Decode whole blocks to a flat float32 array of len(raw) / block_bytes * block_elements.

    `raw` must be contiguous and a whole number of blocks long; it is not changed, but for F32 the
    result shares its memory.
    """
    assert raw.size % kind.block_bytes == 0
    if kind.block_elements == 1:
        return kind.decode(raw)
    blocks = raw.reshape(-1, kind.block_bytes)
    out = np.empty((blocks.shape[0], kind.block_elements), dtype=np.float32)
    step = max(1, _CHUNK_BYTES // kind.block_bytes)
    for start in range(0, blocks.shape[0], step):
        chunk = blocks[start : start + step]
        out[start : start + step] = kind.decode(chunk).reshape(-1, kind.block_elements)
    return out.reshape(-1)
