"""One GGUF file: a checked reader of its header, and reads of its tensors.

Versions 2 and 3, little-endian.  The file is treated as hostile: every length is compared with
the bytes that are left before anything is allocated, offsets and sizes are Python integers, and
tensors must follow each other with no overlap and no hole but the padding.  Bytes after the last
tensor are ignored, as the reference reader does.
Source: the GGUF specification (docs/gguf.md of ggml); written from it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tribody.core.errors import BadModel
from tribody.loading.gguf_types import GGUF_TYPES, UNSUPPORTED_TYPES, GgufType, dequantize
from tribody.loading.open_file import OpenFile

MAX_HEADER_BYTES = 100_000_000  # the largest vocabularies in use need about 12 MB
MAX_TENSORS = 65_536  # DeepSeek-V3 has 1,086, its experts being stacked
MAX_METADATA = 65_536
MAX_KEY_BYTES = 65_535  # from the specification
MAX_NAME_BYTES = 64  # from the specification
MAX_DIMS = 4  # from the specification
MAX_ALIGNMENT = 1 << 16
_READ_AHEAD_BYTES = 1 << 20

NumberArray = NDArray[np.generic]
Value = int | float | bool | str | list[str] | NumberArray

_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1",
            10: "<u8", 11: "<i8", 12: "<f8"}  # fmt: skip


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: `shape` in NumPy's order (rows first), `offset` from the start of the file."""

    name: str
    kind: GgufType
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def row_elements(self) -> int:
        """Elements of the contiguous axis; quantized blocks never span two rows."""
        return self.shape[-1]


class _Cursor:
    """Walks through the header; no read passes the end of the file or the header's limit."""

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self.position = 0  # in the file
        self._buffer = b""
        self._start = 0  # file position of the buffer

    def left(self) -> int:
        return min(self.file.size, MAX_HEADER_BYTES) - self.position

    def take(self, num_bytes: int, what: str) -> bytes:
        """The next bytes.  Raises: BadModel when fewer are left."""
        if num_bytes > self.left():
            raise BadModel(
                f"{self.file.path}: {what} at byte {self.position} needs {num_bytes} bytes but "
                f"{self.left()} are left (a header may have at most {MAX_HEADER_BYTES}); "
                "the file is truncated or malformed: download it again"
            )
        begin = self.position - self._start
        if begin + num_bytes > len(self._buffer):
            self._start, begin = self.position, 0
            wanted = max(num_bytes, min(_READ_AHEAD_BYTES, self.file.size - self.position))
            self._buffer = self.file.read_bytes(self.position, wanted)
        self.position += num_bytes
        return self._buffer[begin : begin + num_bytes]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str, limit: int = MAX_HEADER_BYTES) -> str:
        start = self.position
        length = self.u64(what)
        if length > limit:
            raise BadModel(
                f"{self.file.path}: {what} at byte {start} says it is {length} bytes long; "
                f"the limit is {limit}"
            )
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadModel(f"{self.file.path}: {what} at byte {start} is not UTF-8") from error


class GgufFile:
    """A checked, open GGUF file: `metadata` by key and `tensors` by name, in file order.

    Raises: BadModel naming file, key or tensor, value and limit for every departure.
    """

    def __init__(self, path: Path) -> None:
        self.file = OpenFile(path)
        try:
            cursor = _Cursor(self.file)
            num_tensors, num_metadata = _read_counts(cursor)
            self.metadata = _read_metadata(cursor, num_metadata)
            self.tensors = _read_tensors(cursor, num_tensors, _alignment(path, self.metadata))
        except BadModel:
            self.file.close()
            raise

    def read_rows(self, tensor: GgufTensor, first: int, count: int) -> NDArray[np.float32]:
        """Decode rows [first, first + count) of the tensor seen as a stack of contiguous rows.

        Returns float32 (count, row_elements).  Raises: BadModel when the file has shrunk or a
        value is not a finite number.
        """
        raw = self.raw_rows(tensor, first, count).reshape(-1)
        with np.errstate(invalid="ignore", over="ignore"):  # damaged scales are reported below
            values = dequantize(tensor.kind, raw)
        if not np.isfinite(values).all():
            raise BadModel(
                f"{self.file.path}: tensor {tensor.name!r} holds values that are not finite "
                "numbers; the file is damaged: download it again"
            )
        return values.reshape(count, tensor.row_elements)

    def raw_rows(self, tensor: GgufTensor, first: int, count: int) -> NDArray[np.uint8]:
        """The same rows as they are stored: (count, bytes of a row)."""
        kind = tensor.kind
        row_bytes = tensor.row_elements // kind.block_elements * kind.block_bytes
        raw = self.file.read(tensor.offset + first * row_bytes, count * row_bytes)
        return raw.reshape(count, row_bytes)

    def close(self) -> None:
        self.file.close()


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    path = cursor.file.path
    magic = cursor.take(4, "the magic number")
    if magic != b"GGUF":
        raise BadModel(f"{path}: starts with {magic!r}, not b'GGUF'; it is not a GGUF file")
    version = cursor.u32("the version")
    if version not in (2, 3):
        reason = "it is big-endian" if version in (2 << 24, 3 << 24) else "2 and 3 are supported"
        raise BadModel(f"{path}: GGUF version {version} is not supported: {reason}; convert it")
    num_tensors = cursor.u64("the number of tensors")
    num_metadata = cursor.u64("the number of metadata entries")
    for what, count, limit in (
        ("tensors", num_tensors, MAX_TENSORS),
        ("metadata entries", num_metadata, MAX_METADATA),
    ):
        if count > limit:
            raise BadModel(f"{path}: says it has {count} {what}; the limit is {limit}")
    return num_tensors, num_metadata


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.string("a metadata key", MAX_KEY_BYTES)
        if not key or key in metadata:
            raise BadModel(
                f"{cursor.file.path}: metadata key {key!r:.80} is empty or appears twice"
            )
        kind = cursor.u32(f"the type of {key!r:.80}")
        metadata[key] = _read_value(cursor, key, kind)
    return metadata


def _read_value(cursor: _Cursor, key: str, kind: int) -> Value:
    what = f"metadata {key!r:.80}"
    if kind == _STRING:
        return cursor.string(what)
    if kind == _ARRAY:
        item_kind = cursor.u32(what)
        return _read_array(cursor, what, item_kind, cursor.u64(what))
    if kind not in _NUMBERS:
        raise BadModel(f"{cursor.file.path}: {what} has the unknown type {kind}")
    dtype = np.dtype(_NUMBERS[kind])
    number = np.frombuffer(cursor.take(dtype.itemsize, what), dtype)[0].item()
    if kind != _BOOL:
        return number  # type: ignore[no-any-return]
    if number not in (0, 1):
        raise BadModel(f"{cursor.file.path}: {what} is a bool of value {number}; 0 or 1 is allowed")
    return bool(number)


def _read_array(cursor: _Cursor, what: str, kind: int, count: int) -> list[str] | NumberArray:
    path = cursor.file.path
    if kind == _ARRAY:
        raise BadModel(f"{path}: {what} is an array of arrays, which is not supported")
    if kind != _STRING and kind not in _NUMBERS:
        raise BadModel(f"{path}: {what} is an array of the unknown type {kind}")
    smallest = 8 if kind == _STRING else np.dtype(_NUMBERS[kind]).itemsize
    if count * smallest > cursor.left():
        raise BadModel(
            f"{path}: {what} says it has {count} items, which need at least {count * smallest} "
            f"bytes, but {cursor.left()} are left; the file is truncated or malformed"
        )
    if kind == _STRING:
        return [cursor.string(what) for _ in range(count)]
    return np.frombuffer(cursor.take(count * smallest, what), _NUMBERS[kind])


def _alignment(path: Path, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not 8 <= value <= MAX_ALIGNMENT
        or value & (value - 1)
    ):
        raise BadModel(
            f"{path}: general.alignment {value!r:.40} must be a power of two in "
            f"[8, {MAX_ALIGNMENT}]"
        )
    return value


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, GgufTensor]:
    found: list[GgufTensor] = []
    names: set[str] = set()
    for _ in range(count):
        tensor = _read_tensor(cursor, alignment)
        if not tensor.name or tensor.name in names:
            raise BadModel(
                f"{cursor.file.path}: tensor name {tensor.name!r} is empty or appears twice"
            )
        names.add(tensor.name)
        found.append(tensor)
    data_start = _padded(cursor.position, alignment)
    return _place(cursor.file, found, data_start, alignment)


def _read_tensor(cursor: _Cursor, alignment: int) -> GgufTensor:
    """One entry of the table; its offset still counts from the start of the data."""
    name = cursor.string("a tensor name", MAX_NAME_BYTES)
    where = f"{cursor.file.path}: tensor {name!r}"
    num_dims = cursor.u32(where)
    if not 1 <= num_dims <= MAX_DIMS:
        raise BadModel(f"{where}: has {num_dims} dimensions; 1 to {MAX_DIMS} are allowed")
    dims = struct.unpack(f"<{num_dims}Q", cursor.take(8 * num_dims, where))
    type_id, offset = cursor.u32(where), cursor.u64(where)
    kind = GGUF_TYPES.get(type_id)
    if kind is None:
        known = ", ".join(k.name for k in GGUF_TYPES.values())
        raise BadModel(
            f"{where}: type {UNSUPPORTED_TYPES.get(type_id, type_id)} is not supported; "
            f"use a file with {known}"
        )
    if 0 in dims:
        raise BadModel(f"{where}: dimensions {list(dims)} include 0")
    if dims[0] % kind.block_elements:
        raise BadModel(
            f"{where}: rows of {dims[0]} elements are no multiple of the {kind.block_elements} "
            f"elements of a {kind.name} block"
        )
    if offset % alignment:
        raise BadModel(f"{where}: offset {offset} is not aligned to {alignment} bytes")
    num_bytes = prod(dims) // kind.block_elements * kind.block_bytes
    return GgufTensor(name, kind, tuple(reversed(dims)), offset, num_bytes)


def _place(
    file: OpenFile, tensors: list[GgufTensor], data_start: int, alignment: int
) -> dict[str, GgufTensor]:
    """Refuse overlaps, holes and tensors past the end; make the offsets absolute."""
    expected = 0
    for tensor in sorted(tensors, key=lambda t: t.offset):
        where = f"{file.path}: tensor {tensor.name!r}"
        if tensor.offset != expected:
            fault = "overlaps the one before it" if tensor.offset < expected else "follows a hole"
            raise BadModel(
                f"{where}: starts at data byte {tensor.offset}, not at {expected}: it {fault}"
            )
        end = data_start + tensor.offset + tensor.num_bytes
        if end > file.size:
            raise BadModel(
                f"{where}: {tensor.kind.name} {tensor.shape} ends at byte {end} but the file has "
                f"{file.size}; it is truncated: download it again"
            )
        expected = _padded(tensor.offset + tensor.num_bytes, alignment)
    return {
        t.name: GgufTensor(t.name, t.kind, t.shape, data_start + t.offset, t.num_bytes)
        for t in tensors
    }


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
