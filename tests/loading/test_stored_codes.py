"""Codes of stored matrices stand for exactly the numbers that `read` gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.loading import gguf_maker as make
from tests.loading import safetensors_maker
from tribody.core.config import WeightFormat
from tribody.core.errors import BadModel
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.gguf_file import GgufFile
from tribody.loading.gguf_layout import Expert, Permuted, Plain, Source, SplitKv, Stored
from tribody.precision.codes import decode

KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "BF16": 30, "MXFP4": 39}
EXACT: dict[str, WeightFormat] = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "Q8_0": "w8g32",
    "MXFP4": "fp4g32",
}
EXPERTS, ROWS, COLUMNS = 3, 8, 64


def stored_bytes(kind: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Random numbers as this type stores them, a row for each row of the tensor."""
    rng = np.random.default_rng(7)
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    values = rng.standard_normal((rows, columns)).astype("<f4")
    if kind == "F32":
        return values.view(np.uint8)
    if kind == "F16":
        return values.astype("<f2").view(np.uint8)
    if kind == "BF16":
        return (values.view("<u4") >> 16).astype("<u2").view(np.uint8)
    groups = columns // 32
    scales = rng.uniform(-2, 2, (rows, groups, 1)).astype("<f2").view(np.uint8)
    if kind == "Q8_0":
        codes = rng.integers(-127, 128, (rows, groups, 32)).astype(np.int8).view(np.uint8)
    else:
        codes = rng.integers(0, 256, (rows, groups, 16), dtype=np.uint8)
    if kind == "MXFP4":
        scales = rng.integers(0, 253, (rows, groups, 1), dtype=np.uint8)
    return np.concatenate([scales, codes], axis=-1).reshape(rows, -1)


def stored(path: Path, kind: str, shape: tuple[int, ...], raw: NDArray[np.uint8]) -> Stored:
    """The one tensor of a GGUF file."""
    parts = make.Parts([make.guess("general.architecture", "llama")])
    parts.infos.append(make.tensor_info("t", tuple(reversed(shape)), KINDS[kind], 0))
    parts.data = raw.tobytes()
    file = GgufFile(make.write(path / "one.gguf", parts))
    return Stored(file, file.tensors["t"])


def source_of(way: str, path: Path, kind: str) -> Source:
    shape = (EXPERTS, ROWS, COLUMNS) if way == "expert" else (ROWS, COLUMNS)
    found = stored(path, kind, shape, stored_bytes(kind, shape))
    if way == "expert":
        return Expert(found, 1)
    return Permuted(Plain(found), 2) if way == "permuted" else Plain(found)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("way", ["plain", "permuted", "expert"])
def test_gguf_codes_are_the_values_that_are_read(tmp_path: Path, way: str, kind: str) -> None:
    source = source_of(way, tmp_path, kind)
    found = source.codes()
    assert found is not None
    weight_format, parts = found
    assert weight_format == EXACT[kind]
    values = decode(weight_format, parts, COLUMNS)
    np.testing.assert_array_equal(values, source.read(0, ROWS))


def test_what_no_format_holds_has_no_codes(tmp_path: Path) -> None:
    assert source_of("plain", tmp_path, "Q4_0").codes() is None
    raw = stored_bytes("Q8_0", (ROWS, COLUMNS))
    raw[3, 5] = 0x80  # the code -128
    assert Plain(stored(tmp_path, "Q8_0", (ROWS, COLUMNS), raw)).codes() is None
    key = source_of("expert", tmp_path, "F16")
    assert isinstance(key, Expert)
    assert SplitKv(Plain(key.stored), Plain(key.stored)).codes() is None


@pytest.mark.parametrize(
    ("kind", "at", "byte"),
    [("F16", 1, 0x7C), ("BF16", 1, 0x7F), ("Q8_0", 1, 0x7C), ("MXFP4", 0, 255)],
)
def test_codes_that_are_not_finite_are_refused(
    tmp_path: Path, kind: str, at: int, byte: int
) -> None:
    raw = stored_bytes(kind, (ROWS, COLUMNS))
    raw[2, at] = byte
    raw[2, 0] |= 0x80 if kind == "BF16" else 0
    with pytest.raises(BadModel, match="tensor 't': holds values that are not finite"):
        Plain(stored(tmp_path, kind, (ROWS, COLUMNS), raw)).codes()


def folder_of(path: Path, tensors: safetensors_maker.Tensors, tile: list[int]) -> Path:
    config = {
        "model_type": "llama",
        "quantization_config": {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": tile,
        },
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer_config.json").write_text("{}")
    safetensors_maker.write(path / "model.safetensors", tensors)
    return path


def fp8_tensors(rows: int, columns: int, tile: int) -> safetensors_maker.Tensors:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    tiles = [-(-rows // tile), -(-columns // tile)]
    scales = rng.uniform(0.5, 2, tiles).astype("<f4")
    return {
        "w": ("F8_E4M3", [rows, columns], codes.tobytes()),
        "w_scale_inv": ("F32", tiles, scales.tobytes()),
    }


@pytest.mark.parametrize("tile", [128, 256])
def test_fp8_codes_are_the_values_that_are_read(tmp_path: Path, tile: int) -> None:
    checkpoint = open_checkpoint(folder_of(tmp_path, fp8_tensors(200, 300, tile), [tile, tile]))
    found = checkpoint.codes("w")
    assert found is not None
    assert found[0] == "fp8b"
    np.testing.assert_array_equal(decode("fp8b", found[1], 300), checkpoint.read("w"))


def test_fp8_tiles_of_64_columns_have_no_codes(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder_of(tmp_path, fp8_tensors(200, 300, 64), [64, 64]))
    assert checkpoint.codes("w") is None


def test_fp8_codes_that_are_nan_are_refused(tmp_path: Path) -> None:
    tensors = fp8_tensors(128, 128, 128)
    dtype, shape, raw = tensors["w"]
    tensors["w"] = dtype, shape, raw[:-1] + b"\xff"
    checkpoint = open_checkpoint(folder_of(tmp_path, tensors, [128, 128]))
    with pytest.raises(BadModel, match="NaN codes"):
        checkpoint.codes("w")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_safetensors_codes_are_the_values_that_are_read(tmp_path: Path, kind: str) -> None:
    raw = stored_bytes(kind, (ROWS, COLUMNS))
    tensors: safetensors_maker.Tensors = {"w": (kind, [ROWS, COLUMNS], raw.tobytes())}
    checkpoint = open_checkpoint(folder_of(tmp_path, tensors, [128, 128]))
    found = checkpoint.codes("w")
    assert found is not None
    assert found[0] == EXACT[kind]
    np.testing.assert_array_equal(decode(*found, COLUMNS), checkpoint.read("w"))


def test_a_vector_has_no_codes(tmp_path: Path) -> None:
    tensors: safetensors_maker.Tensors = {"w": ("F32", [2], bytes(8))}
    checkpoint = open_checkpoint(folder_of(tmp_path, tensors, [128, 128]))
    with pytest.raises(BadModel, match="not that of a matrix"):
        checkpoint.codes("w")
