"""A model folder with safetensors weights, in one file or in shards, as a Checkpoint.

F32, F16, BF16 and DeepSeek's FP8 are decoded to float32 at `read`.  An FP8 weight is E4M3 codes
with one float32 scale per tile in a tensor called `<name>_scale_inv`; the tile's size comes from
quantization_config.weight_block_size.  Other quantization methods are refused by name.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tribody.core.errors import BadModel
from tribody.core.tokenizer_source import TokenizerSource
from tribody.loading import config_json
from tribody.loading.fingerprint import fingerprint
from tribody.loading.plain_types import (
    decode_bf16,
    decode_f16,
    decode_f32,
    has_e4m3_nan,
    scale_tiles,
)
from tribody.loading.row_range import checked_rows
from tribody.loading.safetensors_file import SafetensorsFile, TensorEntry
from tribody.loading.stored_codes import Codes, all_finite, codes_of, fp8_codes
from tribody.precision.float_codes import from_e4m3

_LOG = logging.getLogger(__name__)
_SCALE_SUFFIX = "_scale_inv"
_MAX_SHARDS = 512  # one descriptor each; the usual limit of a process is 1024
_NOT_FINITE = "holds values that are not finite numbers; the file is damaged: download it again"
_DECODERS = {"F32": decode_f32, "F16": decode_f16, "BF16": decode_bf16}


@dataclass(frozen=True)
class _Stored:
    """Where a tensor is."""

    file: SafetensorsFile
    entry: TensorEntry


class SafetensorsCheckpoint:
    """See `Checkpoint`.  Built from a folder that `config_json.check_folder` has passed."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.name = folder.resolve().name
        self.config = config_json.read_config(folder)
        self.generation_config = config_json.read_optional_json(folder / "generation_config.json")
        self._tile = _fp8_tile(folder / "config.json", self.config)
        self._files: list[SafetensorsFile] = []
        self._folder = folder
        try:
            if weights.suffix == ".json":
                self._stored = self._open_shards(weights)
            else:
                file = self._open(weights)
                self._stored = {name: _Stored(file, e) for name, e in file.tensors.items()}
            self._names = self._check_weights()
        except BadModel:
            self.close()
            raise

    @cached_property
    def tokenizer_source(self) -> TokenizerSource:
        return config_json.read_tokenizer_source(self._folder)

    @cached_property
    def fingerprint(self) -> str:
        table = ((e.name, e.dtype, e.shape, e.offset) for f in self._files for e in
                 f.tensors.values())  # fmt: skip
        return fingerprint(self.config, table, [file.file for file in self._files])

    def names(self) -> list[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._find(name).entry.shape

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        stored = self._find(name)
        entry = stored.entry
        wanted = checked_rows(f"{stored.file.file.path}: tensor {name!r}", entry.shape, rows)
        shape = (wanted.stop - wanted.start, *entry.shape[1:]) if entry.shape else ()
        raw = stored.file.read(entry, wanted)
        if entry.dtype == "F8_E4M3":
            return self._read_fp8(stored, raw.reshape(shape), wanted)
        values = _DECODERS[entry.dtype](raw).reshape(shape)
        if not np.isfinite(values).all():
            raise BadModel(f"{stored.file.file.path}: tensor {name!r} {_NOT_FINITE}")
        return values

    def codes(self, name: str) -> Codes | None:
        stored = self._find(name)
        entry = stored.entry
        where = f"{stored.file.file.path}: tensor {name!r}"
        if len(entry.shape) != 2:
            raise BadModel(f"{where}: shape {entry.shape} is not that of a matrix")
        num_rows = entry.shape[0]
        rows = stored.file.read(entry, slice(0, num_rows)).reshape(num_rows, -1)
        if entry.dtype == "F8_E4M3":
            return fp8_codes(rows, self._read_scales(stored, rows, slice(0, num_rows)), self._tile)
        found = codes_of(entry.dtype, rows)
        if found is not None and not all_finite(found):
            raise BadModel(f"{where} {_NOT_FINITE}")
        return found

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _open(self, path: Path) -> SafetensorsFile:
        file = SafetensorsFile(path)
        self._files.append(file)
        return file

    def _open_shards(self, index: Path) -> dict[str, _Stored]:
        """Open every shard of an index and check that index and shards agree."""
        weight_map = config_json.read_json(index, config_json.MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadModel(f"{index}: weight_map must map tensor names to file names")
        shards: dict[str, SafetensorsFile] = {}
        for name in dict.fromkeys(weight_map.values()):
            _check_shard_name(index, name)
            if len(shards) == _MAX_SHARDS:
                raise BadModel(f"{index}: names more than {_MAX_SHARDS} shards")
            shards[name] = self._open(index.parent / name)
        owner: dict[str, str] = {}
        for shard_name, shard in shards.items():
            for tensor in shard.tensors:
                if tensor in owner:
                    raise BadModel(
                        f"{index}: tensor {tensor!r} is in {owner[tensor]} and in {shard_name}"
                    )
                owner[tensor] = shard_name
        for tensor, shard_name in weight_map.items():
            if owner.get(tensor) != shard_name:
                raise BadModel(
                    f"{index}: tensor {tensor!r} is said to be in {shard_name} but is not there"
                )
        extra = len(owner) - len(weight_map)
        if extra:
            _LOG.warning("event=tensors_not_in_index index=%s ignored_tensors=%d", index, extra)
        return {
            tensor: _Stored(shards[shard], shards[shard].tensors[tensor])
            for tensor, shard in weight_map.items()
        }

    def _check_weights(self) -> list[str]:
        """Check dtypes and scales of all tensors; returns the names that are weights."""
        scales = set()
        for name, stored in self._stored.items():
            where = f"{stored.file.file.path}: tensor {name!r}"
            if stored.entry.dtype == "F8_E4M3":
                scales.add(self._check_scale(where, name, stored.entry))
            elif stored.entry.dtype not in _DECODERS:
                raise BadModel(
                    f"{where}: dtype {stored.entry.dtype} is not supported; "
                    "weights must be F32, F16, BF16 or F8_E4M3 with scales"
                )
        for name in self._stored:
            if name.endswith(_SCALE_SUFFIX) and name not in scales:
                raise BadModel(f"{name!r} is a scale but {name.removesuffix(_SCALE_SUFFIX)!r} "
                               "is no F8_E4M3 tensor of this checkpoint")  # fmt: skip
        return [name for name in self._stored if name not in scales]

    def _check_scale(self, where: str, name: str, entry: TensorEntry) -> str:
        scale_name = name + _SCALE_SUFFIX
        scale = self._stored.get(scale_name)
        if scale is None:
            raise BadModel(f"{where}: is F8_E4M3 but there is no {scale_name!r} to scale it")
        if len(entry.shape) != 2:
            raise BadModel(f"{where}: F8_E4M3 needs a matrix, not shape {entry.shape}")
        expected = tuple(-(-n // t) for n, t in zip(entry.shape, self._tile, strict=True))
        if scale.entry.shape != expected or scale.entry.dtype != "F32":
            raise BadModel(
                f"{where}: {scale_name!r} is {scale.entry.dtype} {scale.entry.shape}; tiles of "
                f"{self._tile} over {entry.shape} need F32 {expected}"
            )
        return scale_name

    def _read_fp8(
        self, stored: _Stored, codes: NDArray[np.uint8], rows: slice
    ) -> NDArray[np.float32]:
        values = from_e4m3(codes)
        if rows.start < rows.stop:
            scale_tiles(values, self._read_scales(stored, codes, rows), self._tile, rows.start)
        return values

    def _read_scales(
        self, stored: _Stored, codes: NDArray[np.uint8], rows: slice
    ) -> NDArray[np.float32]:
        """The scales of the tiles that these rows touch; codes and scales are checked."""
        where = f"{stored.file.file.path}: tensor {stored.entry.name!r}"
        if has_e4m3_nan(codes):
            raise BadModel(f"{where}: holds NaN codes (0x7F or 0xFF); the file is damaged")
        scale = self._stored[stored.entry.name + _SCALE_SUFFIX]
        tiles = slice(rows.start // self._tile[0], -(-rows.stop // self._tile[0]))
        scales = decode_f32(scale.file.read(scale.entry, tiles)).reshape(
            tiles.stop - tiles.start, -1
        )
        if not np.isfinite(scales).all():
            raise BadModel(f"{where}: a scale in {scale.entry.name!r} is not a finite number")
        return scales

    def _find(self, name: str) -> _Stored:
        stored = self._stored.get(name)
        if stored is None:
            raise BadModel(
                f"{self._folder}: has no tensor {name!r}, which its config.json calls for"
            )
        return stored


def _check_shard_name(index: Path, name: object) -> None:
    plain = isinstance(name, str) and name == os.path.basename(name) and name not in ("", "..", ".")
    if not plain or not str(name).endswith(".safetensors") or "\0" in str(name):
        raise BadModel(
            f"{index}: shard {name!r:.80} must be the plain name of a .safetensors file beside it"
        )


def _fp8_tile(path: Path, config: dict[str, object]) -> tuple[int, int]:
    """The tile of FP8 scales from quantization_config; refuses other methods by name."""
    if "compression_config" in config:
        raise BadModel(f"{path}: compression_config (compressed-tensors) is not supported")
    quantization = config.get("quantization_config")
    if quantization is None:
        return (128, 128)
    if not isinstance(quantization, dict):
        raise BadModel(f"{path}: quantization_config must be an object")
    method = quantization.get("quant_method")
    if method != "fp8":
        raise BadModel(
            f"{path}: quantization_config.quant_method {method!r:.40} is not supported; use an "
            "unquantized or fp8 checkpoint, or a GGUF file"
        )
    for key, supported in (("fmt", "e4m3"), ("activation_scheme", "dynamic")):
        if quantization.get(key, supported) != supported:
            raise BadModel(
                f"{path}: quantization_config.{key} {quantization[key]!r:.40} is not supported; "
                f"only {supported!r} is"
            )
    tile = quantization.get("weight_block_size")
    if (
        not isinstance(tile, list)
        or len(tile) != 2
        or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 65536 for n in tile)
    ):
        raise BadModel(
            f"{path}: quantization_config.weight_block_size {tile!r:.40} must be two whole numbers "
            "in [1, 65536], e.g. [128, 128]"
        )
    return (tile[0], tile[1])
