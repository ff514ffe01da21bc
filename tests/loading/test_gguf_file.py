"""The GGUF reader: what it refuses, and that it reads back what a writer wrote."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.loading import gguf_maker as make
from tests.loading.gguf_maker import Parts
from tests.loading.refusal import assert_refused
from tribody.core.errors import BadModel
from tribody.loading.gguf_file import MAX_TENSORS, GgufFile

ARCH = make.guess("general.architecture", "llama")


def good() -> Parts:
    parts = Parts([ARCH, make.guess("llama.block_count", 1)])
    parts.infos = [
        make.tensor_info("a", [8, 4], 0, 0),  # 128 bytes
        make.tensor_info("b", [3], 1, 128),  # 6 bytes
        make.tensor_info("c", [32], 8, 160),  # 34 bytes
    ]
    parts.data = bytes(194)
    return parts


def meta(*entries: bytes, count: int | None = None) -> bytes:
    return replace(good(), metadata=[ARCH, *entries], num_metadata=count).pack()


def infos(*rows: bytes, data: int = 4096, count: int | None = None) -> bytes:
    return replace(good(), infos=list(rows), data=bytes(data), num_tensors=count).pack()


def info(
    name: str | bytes = "a", dims: tuple[int, ...] = (8, 4), kind: int = 0, offset: int = 0
) -> bytes:
    return make.tensor_info(name, dims, kind, offset)


def huge_array(kind: int, count: int) -> bytes:
    return make.entry("x", make.ARRAY, struct.pack("<IQ", kind, count))


def aligned(value: int) -> bytes:
    return meta(make.guess("general.alignment", value))


NESTED = make.entry("x", make.ARRAY, struct.pack("<IQIQ", make.ARRAY, 1, make.U8, 0))
LONG = (1 << 64) - 1
ENTRY = struct.pack("<Q", 1) + b"k"

BAD: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "magic"),
    "three bytes": (b"GGU", "magic"),
    "wrong magic": (replace(good(), magic=b"GGML").pack(), "not b'GGUF'"),
    "version 0": (replace(good(), version=0).pack(), "version 0"),
    "version 1": (replace(good(), version=1).pack(), "version 1"),
    "version 4": (replace(good(), version=4).pack(), "version 4"),
    "big-endian": (replace(good(), version=3 << 24).pack(), "big-endian"),
    "2^64-1 tensors": (replace(good(), num_tensors=LONG).pack(), "18446744073709551615 tensors"),
    "one tensor too many": (replace(good(), num_tensors=MAX_TENSORS + 1).pack(), "65537 tensors"),
    "2^63 metadata": (replace(good(), num_metadata=1 << 63).pack(), "metadata entries"),
    "more metadata than there is": (Parts([ARCH], num_metadata=9).header(), "metadata key"),
    "more tensors than there are": (Parts([ARCH], num_tensors=9).header(), "tensor name"),
    "key of 2^64-1 bytes": (meta(struct.pack("<Q", LONG)), "limit is 65535"),
    "key of 65536 bytes": (meta(make.guess("k" * 65_536, 1)), "limit is 65535"),
    "empty key": (meta(make.guess("", 1)), "empty"),
    "duplicate key": (meta(make.guess("k", 1), make.guess("k", 2)), "twice"),
    "key not UTF-8": (meta(make.entry(b"\xff\xfe", make.U8, b"1")), "not UTF-8"),
    "value of unknown type": (meta(make.entry("k", 13, bytes(8))), "unknown type 13"),
    "value of type 2^32-1": (meta(make.entry("k", (1 << 32) - 1, b"")), "unknown type"),
    "bool of 2": (meta(make.entry("k", make.BOOL, b"\2")), "bool of value 2"),
    "string of 2^64-1 bytes": (meta(make.entry("k", make.STRING, b"\xff" * 8)), "limit"),
    "string past the end": (
        meta(make.entry("k", make.STRING, struct.pack("<Q", 90_000_000))), "are left"),
    "string not UTF-8": (meta(make.entry("k", make.STRING, make.string(b"\xc3"))), "not UTF-8"),
    "nested array": (meta(NESTED), "array of arrays"),
    "array of unknown type": (meta(huge_array(13, 1)), "unknown type 13"),
    "array of 2^64-1 bytes": (meta(huge_array(make.U8, LONG)), "at least 18446744073709551615"),
    "array of 2^61 doubles": (meta(huge_array(make.F64, 1 << 61)), "are left"),
    "array of 2^40 strings": (meta(huge_array(make.STRING, 1 << 40)), "are left"),
    "alignment 0": (aligned(0), "power of two"),
    "alignment 4": (aligned(4), "power of two"),
    "alignment 13": (aligned(13), "power of two"),
    "alignment 48": (aligned(48), "power of two"),
    "alignment 2^31": (aligned(1 << 31), "power of two"),
    "alignment a string": (meta(make.guess("general.alignment", "32")), "power of two"),
    "alignment a bool": (meta(make.guess("general.alignment", True)), "power of two"),
    "alignment negative": (
        meta(make.entry("general.alignment", make.I32, make.typed(make.I32, -32))), "power of two"),
    "tensor name of 65 bytes": (infos(info("n" * 65)), "limit is 64"),
    "tensor name of 2^64-1 bytes": (infos(b"\xff" * 8, count=1), "limit is 64"),
    "tensor name empty": (infos(info("")), "empty"),
    "tensor name not UTF-8": (infos(info(b"\xff")), "not UTF-8"),
    "duplicate tensor": (infos(info(), info(offset=128)), "twice"),
    "no dimensions": (infos(info(dims=())), "0 dimensions"),
    "five dimensions": (infos(info(dims=(1, 1, 1, 1, 1))), "5 dimensions"),
    "2^32-1 dimensions": (infos(make.string("a") + b"\xff" * 4, count=1), "4294967295 dimensions"),
    "dimension 0": (infos(info(dims=(8, 0))), "include 0"),
    "dimension 2^64-1": (infos(info(dims=(LONG,))), "ends at byte"),
    "product overflows": (infos(info(dims=(1 << 33, 1 << 33, 1 << 33))), "ends at byte"),
    "product wraps to 0": (infos(info(dims=(1 << 32, 1 << 32))), "ends at byte"),
    "unknown tensor type": (infos(info(kind=99)), "type 99"),
    "known but unsupported type": (infos(info(dims=(256,), kind=10)), "Q2_K"),
    "removed type Q4_2": (infos(info(dims=(32,), kind=4)), "type 4"),
    "rows no multiple of 32": (infos(info(dims=(33, 4), kind=8)), "multiple of the 32"),
    "rows no multiple of 256": (infos(info(dims=(128, 2), kind=12)), "multiple of the 256"),
    "offset not aligned": (infos(info(offset=7)), "not aligned"),
    "offset past the end": (infos(info(offset=1 << 40)), "hole"),
    "offset 2^64-32": (infos(info(offset=(1 << 64) - 32)), "hole"),
    "first tensor not at 0": (infos(info(offset=32)), "hole"),
    "hole": (infos(info(), info("b", offset=160)), "hole"),
    "overlap": (infos(info(), info("b", offset=96)), "overlaps"),
    "same bytes twice": (infos(info(), info("b")), "overlaps"),
    "data cut": (infos(info(), data=127), "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    assert_refused(GgufFile, path, message)


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    parts = good()
    parts.metadata += [make.guess("list", ["a", "b"]), make.guess("ints", [1, 2, 3])]
    content = parts.pack()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content)
    GgufFile(path).close()
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(BadModel):
            GgufFile(path)


def test_file_truncated_after_opening(tmp_path: Path) -> None:
    path = make.write(tmp_path / "shrinks.gguf", good())
    file = GgufFile(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(BadModel, match="now ends before"):
        file.read_rows(file.tensors["c"], 0, 1)
    file.close()


@pytest.mark.parametrize("version", [2, 3])
def test_every_value_type_is_read_back(version: int, tmp_path: Path) -> None:
    scalars: dict[int, float | str] = {
        make.U8: 255, make.I8: -128, make.U16: 65535, make.I16: -32768, make.U32: (1 << 32) - 1,
        make.I32: -(1 << 31), make.F32: 0.5, make.BOOL: 1, make.STRING: "héllo 你好",
        make.U64: (1 << 64) - 1, make.I64: -(1 << 63), make.F64: 1e300,
    }  # fmt: skip
    parts = Parts(version=version)
    for kind, value in scalars.items():
        parts.metadata.append(make.entry(f"one{kind}", kind, make.typed(kind, value)))
        body = make.array(kind, [value, value])
        parts.metadata.append(make.entry(f"two{kind}", make.ARRAY, body))
    file = GgufFile(make.write(tmp_path / "types.gguf", parts))
    for kind, value in scalars.items():
        assert file.metadata[f"one{kind}"] == value
        assert list(file.metadata[f"two{kind}"]) == [value, value]  # type: ignore[arg-type]
    assert file.metadata[f"one{make.BOOL}"] is True
    file.close()


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_tensors_are_found_at_their_offsets(alignment: int, tmp_path: Path) -> None:
    """Tensors may be listed in any order, and bytes after the last one are ignored."""
    rng = np.random.default_rng(alignment)
    first, second = rng.standard_normal((2, 3, 4)), rng.standard_normal(5)
    raw = first.astype("<f4").tobytes()
    parts = Parts([make.guess("general.alignment", alignment)], alignment=alignment)
    start = -(-len(raw) // alignment) * alignment
    parts.infos = [
        make.tensor_info("second", [5], 1, start),
        make.tensor_info("first", [4, 3, 2], 0, 0),
    ]
    parts.data = raw.ljust(start, b"\0") + second.astype("<f2").tobytes() + b"appended"
    file = GgufFile(make.write(tmp_path / "aligned.gguf", parts))
    assert list(file.tensors) == ["second", "first"]
    tensor = file.tensors["first"]
    assert tensor.shape == (2, 3, 4)
    values = file.read_rows(tensor, 0, 6)
    np.testing.assert_array_equal(values.reshape(2, 3, 4), first.astype(np.float32))
    np.testing.assert_array_equal(file.read_rows(tensor, 4, 2), values[4:])
    half = file.read_rows(file.tensors["second"], 0, 1)
    np.testing.assert_array_equal(half[0], second.astype(np.float16).astype(np.float32))
    file.close()


@pytest.mark.parametrize(("kind", "scale"), [(8, b"\x00\x7c"), (2, b"\x00\x7e"), (0, b"\x00\x00")])
def test_values_that_are_not_finite_are_refused(kind: int, scale: bytes, tmp_path: Path) -> None:
    """An infinite or NaN scale, or an infinite float, is damage and is named."""
    parts = Parts(infos=[make.tensor_info("broken", [32], kind, 0)])
    parts.data = scale + b"\x01" * 126 if kind else b"\x00\x00\x80\x7f" * 32
    file = GgufFile(make.write(tmp_path / "inf.gguf", parts))
    with pytest.raises(BadModel, match="'broken' holds values that are not finite"):
        file.read_rows(file.tensors["broken"], 0, 1)
    file.close()


def test_long_strings_cross_the_read_ahead(tmp_path: Path) -> None:
    """Strings around and above the 1 MiB that are read at a time."""
    texts = ["x" * size for size in (1 << 20, 7, (1 << 20) - 9, 3 << 20, 0, 5)]
    parts = Parts([make.guess("texts", texts), make.guess("end", 42)])
    file = GgufFile(make.write(tmp_path / "long.gguf", parts))
    assert file.metadata["texts"] == texts
    assert file.metadata["end"] == 42
    file.close()


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    """1,000 files with random bytes changed: read, or refused with BadModel, nothing else."""
    rng = np.random.default_rng(20261121)
    content = np.frombuffer(good().pack(), np.uint8)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content.tobytes())
    for _ in range(1000):
        damaged = content.copy()
        where = rng.integers(0, len(content), size=rng.integers(1, 4))
        damaged[where] = rng.integers(0, 256, size=where.size)
        with path.open("r+b") as stream:
            stream.write(damaged.tobytes())
        try:
            GgufFile(path).close()
        except BadModel:
            continue
