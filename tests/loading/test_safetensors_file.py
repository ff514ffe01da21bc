"""The safetensors reader: what it accepts equals the `safetensors` package; what it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from tests.loading.refusal import assert_refused
from tests.loading.safetensors_maker import header_of, pack, write
from tribody.core.errors import BadModel
from tribody.loading.safetensors_file import MAX_HEADER_BYTES, MAX_TENSORS, SafetensorsFile

GOOD = {"a": ("F32", [2, 3], bytes(24)), "b": ("BF16", [4], bytes(8))}
HEADER, DATA = header_of(GOOD)


def one(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    """A header with one tensor, for 8 bytes of data."""
    shape = list(shape) if isinstance(shape, tuple) else shape
    offsets = list(offsets) if isinstance(offsets, tuple) else offsets
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def two(first: tuple[int, int], second: tuple[int, int]) -> dict[str, object]:
    return {
        name: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for name, (start, stop) in (("a", first), ("b", second))
    }


BAD: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "at least 8"),
    "seven bytes": (bytes(7), "at least 8"),
    "no header": (bytes(8), "does not start with"),
    "header length 2^64-1": (b"\xff" * 8 + b"{}", "limit of 100000000"),
    "header one over the limit": (pack("{}", b"", length=MAX_HEADER_BYTES + 1), "limit"),
    "header longer than the file": (pack("{}", b"", length=100), "truncated"),
    "header cut": (pack(HEADER, DATA)[:20], "truncated"),
    "not JSON": (pack("{]", b""), "not valid JSON"),
    "a JSON list": (pack("[1]", b""), "does not start with"),
    "JSON cut by its length": (pack(HEADER, DATA, length=20), "not valid JSON"),
    "leading space": (pack(b" {}", b""), "does not start with"),
    "not UTF-8": (pack(b'{"\xff": 1}', b""), "not UTF-8"),
    "nested too deep": (pack('{"a":' + "[" * 100_000, b""), "not valid JSON"),
    "many brackets": (pack('{"a":[' + "[]," * 300_000 + "[]]}", b""), "more than the limit"),
    "many values": (pack('{"a":[' + "1," * 1_100_000 + "1]}", b""), "more than the limit"),
    "number of 5000 digits": (pack('{"a":' + "9" * 5000 + "}", b""), "not valid JSON"),
    "duplicate tensor": (pack('{"a":1,"a":1}', b""), "'a' twice"),
    "duplicate field": (pack('{"a":{"dtype":"U8","dtype":"U8"}}', b""), "'dtype' twice"),
    "metadata not a map": (pack({"__metadata__": [1]}, b""), "__metadata__"),
    "metadata of numbers": (pack({"__metadata__": {"a": 1}}, b""), "__metadata__"),
    "entry not an object": (pack({"a": 3}, b""), "exactly the keys"),
    "entry lacks a key": (pack({"a": {"dtype": "F32", "shape": [1]}}, b""), "exactly the keys"),
    "entry has another key": (pack({"a": {**one()["a"], "x": 1}}, bytes(8)), "exactly the keys"),  # type: ignore[dict-item]
    "unknown dtype": (pack(one("F33"), bytes(8)), "unknown dtype 'F33'"),
    "dtype not a string": (pack(one(7), bytes(8)), "unknown dtype 7"),
    "negative dimension": (pack(one(shape=(-2,)), bytes(8)), "shape"),
    "fractional dimension": (pack(one(shape=(2.0,)), bytes(8)), "shape"),
    "boolean dimension": (pack(one(shape=(True, 2)), bytes(8)), "shape"),
    "dimension of 2^63": (pack(one(shape=(1 << 63,)), bytes(8)), "shape"),
    "shape product overflows": (pack(one(shape=(1 << 32, 1 << 32)), bytes(8)), "needs 7378697"),
    "nine dimensions": (pack(one(shape=(1,) * 8 + (2,)), bytes(8)), "9 dimensions"),
    "shape not a list": (pack(one(shape=2), bytes(8)), "shape"),
    "shape needs more": (pack(one(shape=(3,)), bytes(8)), "needs 12 bytes"),
    "shape needs less": (pack(one(shape=(1,)), bytes(8)), "needs 4 bytes"),
    "offset past the end": (pack(one(offsets=(0, 16)), bytes(8)), "outside the 8 bytes"),
    "offset of 2^64": (pack(one(offsets=(0, 1 << 64)), bytes(8)), "data_offsets"),
    "negative offset": (pack(one(offsets=(-8, 0)), bytes(8)), "data_offsets"),
    "offsets reversed": (pack(one(offsets=(8, 0)), bytes(8)), "outside"),
    "one offset": (pack(one(offsets=(8,)), bytes(8)), "data_offsets"),
    "three offsets": (pack(one(offsets=(0, 8, 8)), bytes(8)), "data_offsets"),
    "overlap": (pack(two((0, 6), (4, 8)), bytes(8)), "overlaps"),
    "same bytes twice": (pack(two((0, 8), (0, 8)), bytes(8)), "overlaps"),
    "hole": (pack(two((0, 3), (4, 8)), bytes(8)), "hole"),
    "hole at the start": (pack(two((1, 4), (4, 8)), bytes(8)), "hole"),
    "rest at the end": (pack(two((0, 3), (3, 7)), bytes(8)), "belong to none"),
    "no tensors but data": (pack({}, bytes(8)), "belong to none"),
    "data cut": (pack(HEADER, DATA[:-1]), "outside"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    assert_refused(SafetensorsFile, path, message)


def test_the_package_accepts_only_the_harmless_ones() -> None:
    """Where the `safetensors` package is laxer, the file could still be read without danger."""
    accepted = set()
    for case, (content, _) in BAD.items():
        try:
            safetensors.deserialize(content)
        except (safetensors.SafetensorError, OverflowError):
            continue
        accepted.add(case)
    assert accepted == {"entry has another key", "leading space", "nine dimensions"}


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    content = pack(HEADER, DATA)
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content)
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(BadModel):
            SafetensorsFile(path)


def test_too_many_tensors(tmp_path: Path) -> None:
    entry = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    path = tmp_path / "many.safetensors"
    path.write_bytes(pack("{" + ",".join(entry % i for i in range(MAX_TENSORS + 1)) + "}", b""))
    with pytest.raises(BadModel, match="65537 tensors"):
        SafetensorsFile(path)


def test_missing_folder_and_fifo(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="No such file"):
        SafetensorsFile(tmp_path / "absent.safetensors")
    fifo = tmp_path / "fifo.safetensors"
    os.mkfifo(fifo)
    with pytest.raises(BadModel, match="not a regular file"):
        SafetensorsFile(fifo)
    with pytest.raises(BadModel, match="not a regular file"):
        SafetensorsFile(tmp_path)


def test_file_truncated_after_opening(tmp_path: Path) -> None:
    """A map would die with SIGBUS here."""
    path = write(tmp_path / "shrinks.safetensors", GOOD)
    file = SafetensorsFile(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(BadModel, match="now ends before"):
        file.read(file.tensors["b"], slice(0, 4))
    file.close()


def test_written_by_the_package_and_read_by_us(tmp_path: Path) -> None:
    """Every dtype, odd shapes, scalars and empty tensors; rows are ranges of the whole."""
    rng = np.random.default_rng(7)
    arrays: dict[str, NDArray[Any]] = {
        "f32": rng.standard_normal((5, 3), dtype=np.float32),
        "f16": rng.standard_normal((4, 2, 3)).astype(np.float16),
        "bf16": rng.standard_normal((3, 7)).astype(ml_dtypes.bfloat16),
        "scalar": np.array(2.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "i64": np.arange(6).reshape(2, 3),
        "ünï": np.ones(3, dtype=np.uint8),
    }
    path = tmp_path / "good.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np", "note": "[{,,,}]"})
    file = SafetensorsFile(path)
    assert set(file.tensors) == set(arrays)
    for name, array in arrays.items():
        entry = file.tensors[name]
        assert entry.shape == array.shape
        rows = array.shape[0] if array.shape else 1
        assert file.read(entry, slice(0, rows)).tobytes() == array.tobytes()
        if rows > 2:
            assert file.read(entry, slice(1, 3)).tobytes() == array[1:3].tobytes()
    file.close()
