"""One .safetensors file: a checked header and reads of raw bytes.

The header is JSON and is treated as hostile: its length, the number of its entries, every dtype,
shape and offset are checked with Python integers before anything is allocated, and the tensors
must tile the data area exactly (no overlap, no hole, no rest), as the format requires.  The
`safetensors` package is the oracle of the tests; this reader exists because it says what is wrong
in words, reads rows without mapping the file, and counts what it allocates.
Source: the format section of the safetensors README.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tribody.core.errors import BadModel
from tribody.loading.open_file import OpenFile

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
MAX_TENSORS = 65_536  # per file; the largest DeepSeek checkpoints hold about 1,200 per shard
MAX_DIMS = 8
_MAX_COUNT = 1 << 48  # no dimension and no file reaches it, and products of 8 stay printable
# Bounds on brackets and commas keep the parsed header within a few times its length: without
# them, 100 MB of "[[],[],…" would become gigabytes of Python objects.
_MAX_BRACKETS = 4 * MAX_TENSORS
_MAX_COMMAS = 16 * MAX_TENSORS

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the header; `offset` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class SafetensorsFile:
    """A checked, open .safetensors file.

    Raises: BadModel naming file, tensor, value and limit for every departure from the format.
    """

    def __init__(self, path: Path) -> None:
        self.file = OpenFile(path)
        try:
            self.tensors, self.metadata = _read_header(self.file)
        except BadModel:
            self.file.close()
            raise

    def read(self, entry: TensorEntry, rows: slice) -> NDArray[np.uint8]:
        """Raw bytes of rows [rows.start, rows.stop) along the first axis, not copied twice."""
        row_bytes = entry.num_bytes // entry.shape[0] if entry.shape and entry.shape[0] else 0
        if not entry.shape:
            return self.file.read(entry.offset, entry.num_bytes)
        return self.file.read(
            entry.offset + rows.start * row_bytes, (rows.stop - rows.start) * row_bytes
        )

    def close(self) -> None:
        self.file.close()


class _Duplicate(ValueError):
    """A JSON object has the same key twice."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Duplicate(key)
            seen.add(key)
    return result


def _read_header(file: OpenFile) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Parse and check the header; returns the tensors in the order of their data, and metadata."""
    if file.size < 8:
        raise BadModel(f"{file.path}: has {file.size} bytes; a safetensors file has at least 8")
    length = int.from_bytes(file.read_bytes(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise BadModel(
            f"{file.path}: the header says it is {length} bytes long, more than the limit of "
            f"{MAX_HEADER_BYTES}; the file is malformed"
        )
    if 8 + length > file.size:
        raise BadModel(
            f"{file.path}: the header is {length} bytes long but the file has {file.size}; "
            "it is truncated: download it again"
        )
    raw = file.read_bytes(8, length)
    if not raw.startswith(b"{"):
        raise BadModel(f"{file.path}: the header does not start with '{{'; it is not safetensors")
    header = _parse_json(file.path, raw)
    header_entries = {key: value for key, value in header.items() if key != "__metadata__"}
    metadata = _checked_metadata(file.path, header.get("__metadata__", {}))
    if len(header_entries) > MAX_TENSORS:
        raise _too_many(file.path, f"{len(header_entries)} tensors", MAX_TENSORS)
    data_start = 8 + length
    entries = [
        _check_entry(file, name, value, data_start) for name, value in header_entries.items()
    ]
    return _check_tiling(file, entries, data_start), metadata


def _parse_json(path: Path, raw: bytes) -> dict[str, object]:
    if raw.count(b"{") + raw.count(b"[") > _MAX_BRACKETS:
        raise _too_many(path, "objects and lists in the header", _MAX_BRACKETS)
    if raw.count(b",") > _MAX_COMMAS:
        raise _too_many(path, "values in the header", _MAX_COMMAS)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise BadModel(f"{path}: the header is not UTF-8 at byte {8 + error.start}") from error
    except _Duplicate as error:
        raise BadModel(f"{path}: the header names {str(error)!r} twice") from error
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{path}: the header is not valid JSON: {error}") from error
    assert isinstance(header, dict)  # the text starts with '{'
    return header


def _too_many(path: Path, what: str, limit: int) -> BadModel:
    return BadModel(f"{path}: {what}: more than the limit of {limit} in one file; use shards")


def _checked_metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadModel(f"{path}: __metadata__ must map strings to strings")
    return metadata


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT


def _check_entry(file: OpenFile, name: str, value: object, data_start: int) -> TensorEntry:
    where = f"{file.path}: tensor {name!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise BadModel(f"{where}: must have exactly the keys dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise BadModel(f"{where}: unknown dtype {dtype!r:.40}; known: {', '.join(DTYPE_BYTES)}")
    if not isinstance(shape, list) or not all(_is_count(n) for n in shape):
        raise BadModel(
            f"{where}: shape {shape!r:.80} must be a list of whole numbers in [0, 2**48)"
        )
    if len(shape) > MAX_DIMS:
        raise BadModel(f"{where}: {len(shape)} dimensions; the limit is {MAX_DIMS}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise BadModel(
            f"{where}: data_offsets {offsets!r:.80} must be two whole numbers in [0, 2**48)"
        )
    begin, end = offsets
    data_bytes = file.size - data_start
    if not begin <= end <= data_bytes:
        raise BadModel(
            f"{where}: data_offsets [{begin}, {end}] lie outside the {data_bytes} bytes of data; "
            "the file is truncated or malformed: download it again"
        )
    num_bytes = prod(shape) * DTYPE_BYTES[dtype]
    if num_bytes != end - begin:
        raise BadModel(
            f"{where}: shape {shape} of {dtype} needs {num_bytes} bytes but data_offsets span "
            f"{end - begin}"
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + begin, num_bytes)


def _check_tiling(
    file: OpenFile, entries: list[TensorEntry], data_start: int
) -> dict[str, TensorEntry]:
    """Refuse overlaps, holes and bytes that belong to no tensor."""
    position = data_start
    ordered = sorted(entries, key=lambda entry: (entry.offset, entry.num_bytes))
    for entry in ordered:
        if entry.offset != position:
            kind = "overlaps the tensor before it" if entry.offset < position else "follows a hole"
            raise BadModel(
                f"{file.path}: tensor {entry.name!r} starts at byte {entry.offset} but "
                f"{position} is expected: it {kind}"
            )
        position += entry.num_bytes
    if position != file.size:
        raise BadModel(
            f"{file.path}: {file.size - position} bytes after the last tensor belong to none"
        )
    return {entry.name: entry for entry in ordered}
