"""Model folders: one file, shards, FP8 with tiles, and everything that is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from tests.loading.safetensors_maker import Tensors, header_of, pack, write
from tribody.core.errors import BadModel
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.checkpoint_face import Checkpoint

CONFIG = {"model_type": "llama", "hidden_size": 8}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
       "weight_block_size": [128, 128]}  # fmt: skip


def folder(tmp_path: Path, config: dict[str, object] | None = None) -> Path:
    path = tmp_path / "tiny-model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    return path


def with_tensors(
    tmp_path: Path, tensors: Tensors, config: dict[str, object] | None = None
) -> Checkpoint:
    path = folder(tmp_path, config)
    write(path / "model.safetensors", tensors)
    return open_checkpoint(path)


def fp8_tensors(codes: NDArray[np.uint8], scales: NDArray[np.float32]) -> Tensors:
    return {
        "w": ("F8_E4M3", list(codes.shape), codes.tobytes()),
        "w_scale_inv": ("F32", list(scales.shape), scales.tobytes()),
    }


def test_the_three_float_formats(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays: dict[str, NDArray[Any]] = {
        "f32": rng.standard_normal((6, 5), dtype=np.float32),
        "f16": rng.standard_normal((6, 5)).astype(np.float16),
        "bf16": rng.standard_normal((6, 5)).astype(ml_dtypes.bfloat16),
    }
    path = folder(tmp_path)
    safetensors.numpy.save_file(arrays, path / "model.safetensors")
    checkpoint = open_checkpoint(path)
    assert sorted(checkpoint.names()) == sorted(arrays)
    assert checkpoint.config == CONFIG
    assert checkpoint.name == "tiny-model"
    for name, array in arrays.items():
        assert checkpoint.shape(name) == (6, 5)
        values = checkpoint.read(name)
        assert values.dtype == np.float32
        assert values.flags.c_contiguous and values.flags.writeable  # noqa: PT018
        np.testing.assert_array_equal(values, array.astype(np.float32))
        np.testing.assert_array_equal(checkpoint.read(name, slice(2, 5)), values[2:5])
        assert checkpoint.read(name, slice(3, 3)).shape == (0, 5)
    checkpoint.close()


@pytest.mark.parametrize("rows", [slice(0, 7), slice(-1, 2), slice(4, 2), slice(0, 4, 2)])
def test_rows_outside_the_tensor(rows: slice, tmp_path: Path) -> None:
    checkpoint = with_tensors(tmp_path, {"a": ("F32", [6], bytes(24))})
    with pytest.raises(BadModel, match="its shape is"):
        checkpoint.read("a", rows)
    with pytest.raises(BadModel, match="no tensor 'b'"):
        checkpoint.read("b")


def test_all_256_fp8_codes(tmp_path: Path) -> None:
    """254 codes are exact, times an exact scale; the two NaN codes are refused by name.

    The oracle is ml_dtypes' float8_e4m3fn.
    """
    codes = np.arange(256, dtype=np.uint8)
    finite = np.delete(codes, [0x7F, 0xFF]).reshape(2, 127)
    scales = np.full((1, 1), 0.5, np.float32)
    config = {**CONFIG, "quantization_config": FP8}
    checkpoint = with_tensors(tmp_path, fp8_tensors(finite, scales), config)
    expected = finite.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(0.5)
    values = checkpoint.read("w")
    np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))
    assert list(checkpoint.names()) == ["w"]


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_nan_codes_are_refused(code: int, tmp_path: Path) -> None:
    codes = np.zeros((2, 2), np.uint8)
    codes[1, 1] = code
    checkpoint = with_tensors(tmp_path, fp8_tensors(codes, np.ones((1, 1), np.float32)))
    checkpoint.read("w", slice(0, 1))
    with pytest.raises(BadModel, match="'w': holds NaN codes"):
        checkpoint.read("w")


@pytest.mark.parametrize("tile", [(128, 128), (32, 64), (1, 7)])
@pytest.mark.parametrize("shape", [(300, 200), (128, 128), (1, 129), (257, 1)])
def test_tiles_and_their_rows(
    shape: tuple[int, int], tile: tuple[int, int], tmp_path: Path
) -> None:
    """Every range of rows equals the rows of the whole, whose scales are spread in float64."""
    rng = np.random.default_rng(shape[0])
    codes = rng.integers(0, 0x7F, shape, dtype=np.uint8)
    grid = tuple(-(-n // t) for n, t in zip(shape, tile, strict=True))
    scales = rng.uniform(1e-4, 1e-2, grid).astype(np.float32)
    config = {**CONFIG, "quantization_config": {**FP8, "weight_block_size": list(tile)}}
    checkpoint = with_tensors(tmp_path, fp8_tensors(codes, scales), config)
    spread = np.kron(scales, np.ones(tile))[: shape[0], : shape[1]]
    plain = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    values = checkpoint.read("w")
    np.testing.assert_array_equal(values, (plain * spread).astype(np.float32))
    for start, stop in ((0, 0), (0, 1), (shape[0] - 1, shape[0]), (shape[0] // 3, shape[0])):
        np.testing.assert_array_equal(checkpoint.read("w", slice(start, stop)), values[start:stop])


ONE = np.ones((1, 1), np.float32)
CODES = np.zeros((4, 4), np.uint8)
BAD_FP8: dict[str, tuple[Tensors, str]] = {
    "no scale": ({"w": ("F8_E4M3", [4, 4], bytes(16))}, "no 'w_scale_inv'"),
    "scale of another grid": (
        fp8_tensors(CODES, np.ones((2, 1), np.float32)), r"need F32 \(1, 1\)"),
    "scale of another dtype": (
        fp8_tensors(CODES, ONE) | {"w_scale_inv": ("F16", [1, 1], bytes(2))}, "is F16"),
    "a vector": (
        {"w": ("F8_E4M3", [4], bytes(4)), "w_scale_inv": ("F32", [1], bytes(4))}, "a matrix"),
    "a scale without its weight": ({"w_scale_inv": ("F32", [1, 1], bytes(4))}, "is a scale"),
    "a scale of a float weight": (
        {"w": ("F32", [1], bytes(4)), "w_scale_inv": ("F32", [1, 1], bytes(4))}, "is a scale"),
    "E5M2": ({"w": ("F8_E5M2", [4, 4], bytes(16))}, "F8_E5M2 is not supported"),
    "integers": ({"w": ("I64", [2], bytes(16))}, "I64 is not supported"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FP8)
def test_bad_tensors(case: str, tmp_path: Path) -> None:
    tensors, message = BAD_FP8[case]
    with pytest.raises(BadModel, match=message):
        with_tensors(tmp_path, tensors)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_values_that_are_not_finite(bad: float, tmp_path: Path) -> None:
    tensors = fp8_tensors(CODES, np.full((1, 1), bad, np.float32))
    tensors["plain"] = ("F32", [1], struct.pack("<f", bad))
    checkpoint = with_tensors(tmp_path, tensors)
    with pytest.raises(BadModel, match="a scale in 'w_scale_inv'"):
        checkpoint.read("w")
    with pytest.raises(BadModel, match="'plain' holds values that are not finite"):
        checkpoint.read("plain")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "gptq"}, "'gptq' is not supported"),
        ({"quant_method": "awq"}, "'awq' is not supported"),
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' is not supported"),
        ({"quant_method": None}, "None is not supported"),
        ({"fmt": "e5m2"}, "fmt 'e5m2'"),
        ({"activation_scheme": "static"}, "activation_scheme 'static'"),
        ({"weight_block_size": [128]}, "weight_block_size"),
        ({"weight_block_size": [0, 128]}, "weight_block_size"),
        ({"weight_block_size": [True, 128]}, "weight_block_size"),
        ({"weight_block_size": None}, "weight_block_size"),
    ],
)
def test_quantization_methods(change: dict[str, object], message: str, tmp_path: Path) -> None:
    config = {**CONFIG, "quantization_config": {**FP8, **change}}
    with pytest.raises(BadModel, match=message):
        with_tensors(tmp_path, {}, config)


def sharded(tmp_path: Path, weight_map: object) -> Path:
    """Two shards, a.safetensors with x and b.safetensors with y, and an index."""
    path = folder(tmp_path)
    write(path / "a.safetensors", {"x": ("F32", [1], struct.pack("<f", 1))})
    write(path / "b.safetensors", {"y": ("F32", [1], struct.pack("<f", 2))})
    index = {"metadata": {"total_size": 8}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def test_shards(tmp_path: Path) -> None:
    path = sharded(tmp_path, {"y": "b.safetensors", "x": "a.safetensors"})
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.names()) == ["y", "x"]
    assert (checkpoint.read("x")[0], checkpoint.read("y")[0]) == (1, 2)
    checkpoint.close()


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "must map"),
        ({}, "must map"),
        ([], "must map"),
        ({"x": 3}, "plain name"),
        ({"x": "../a.safetensors"}, "plain name"),
        ({"x": "/etc/passwd"}, "plain name"),
        ({"x": "sub/a.safetensors"}, "plain name"),
        ({"x": ".."}, "plain name"),
        ({"x": "a\0.safetensors"}, "plain name"),
        ({"x": "a.bin"}, "plain name"),
        ({"x": "c.safetensors"}, "No such file"),
        ({"x": "b.safetensors"}, "'x' is said to be in b.safetensors"),
        ({"z": "a.safetensors"}, "'z' is said to be in a.safetensors"),
    ],
)
def test_bad_index(weight_map: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=message):
        open_checkpoint(sharded(tmp_path, weight_map))


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    path = sharded(tmp_path, {"x": "a.safetensors", "y": "b.safetensors"})
    write(path / "b.safetensors", {"x": ("F32", [1], bytes(4)), "y": ("F32", [1], bytes(4))})
    with pytest.raises(BadModel, match=r"'x' is in a\.safetensors and in b\.safetensors"):
        open_checkpoint(path)


def test_a_bad_file_inside_a_folder_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path)
    header, data = header_of({"a": ("F32", [2], bytes(8))})
    (path / "model.safetensors").write_bytes(pack(header, data[:-1]))
    with pytest.raises(BadModel, match=r"tiny-model/model\.safetensors: tensor 'a'"):
        open_checkpoint(path)


def test_fingerprint(tmp_path: Path) -> None:
    """The same for a copy elsewhere; different for another weight, config or name."""
    seen = set()
    for number, (name, value, config) in enumerate(
        [
            ("a", 1.0, CONFIG),
            ("a", 1.0, CONFIG),
            ("a", 2.0, CONFIG),
            ("b", 1.0, CONFIG),
            ("a", 1.0, {**CONFIG, "hidden_size": 9}),
        ]
    ):
        place = tmp_path / str(number)
        place.mkdir()
        tensors: Tensors = {name: ("F32", [1], struct.pack("<f", value))}
        seen.add(with_tensors(place, tensors, dict(config)).fingerprint)
    assert len(seen) == 4
