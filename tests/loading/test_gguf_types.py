"""Decoding of GGUF's types against the reference decoder's stored output, bit for bit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tribody.loading.gguf_types import (
    _CHUNK_BYTES,
    GGUF_TYPES,
    UNSUPPORTED_TYPES,
    GgufType,
    dequantize,
)

DATA = Path(__file__).parent / "data"
NAMES = [kind.name for kind in GGUF_TYPES.values()]


def test_the_golden_is_the_one_that_was_recorded() -> None:
    """Made by data/make_gguf_types.py; the versions are in the .sha256 file."""
    stated = (DATA / "gguf_types.sha256").read_text().split()[0]
    assert hashlib.sha256((DATA / "gguf_types.npz").read_bytes()).hexdigest() == stated


@pytest.mark.parametrize("kind", GGUF_TYPES.values(), ids=NAMES)
def test_bit_equal_to_the_reference(kind: GgufType) -> None:
    golden = np.load(DATA / "gguf_types.npz")
    packed, expected = golden[f"{kind.name}_packed"], golden[f"{kind.name}_values"]
    assert packed.size // kind.block_bytes * kind.block_elements == expected.size
    values = dequantize(kind, packed)
    np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K"])
def test_chunks_do_not_change_the_result(name: str) -> None:
    """Many blocks, decoded in chunks, equal the same blocks one by one."""
    kind = next(k for k in GGUF_TYPES.values() if k.name == name)
    golden = np.load(DATA / "gguf_types.npz")
    packed, expected = golden[f"{name}_packed"], golden[f"{name}_values"]
    repeats = 2 * _CHUNK_BYTES // packed.size + 1
    values = dequantize(kind, np.tile(packed, repeats))
    np.testing.assert_array_equal(values.reshape(repeats, -1), np.tile(expected, (repeats, 1)))


def test_no_type_is_both_supported_and_not() -> None:
    assert not GGUF_TYPES.keys() & UNSUPPORTED_TYPES.keys()


@pytest.mark.parametrize("kind", GGUF_TYPES.values(), ids=NAMES)
def test_no_blocks_give_no_values(kind: GgufType) -> None:
    assert dequantize(kind, np.zeros(0, np.uint8)).shape == (0,)
