"""Makes GGUF files byte by byte, right and wrong ones.  Written from the GGUF specification."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_PACK = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B",
         U64: "<Q", I64: "<q", F64: "<d"}  # fmt: skip


def string(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def typed(kind: int, value: float | str | bytes) -> bytes:
    """A value without its type number."""
    if isinstance(value, str | bytes):
        return string(value)
    return struct.pack(_PACK[kind], value)


def array(kind: int, items: Sequence[float | str | bytes]) -> bytes:
    """The body of an array value: item type, count, items."""
    return struct.pack("<IQ", kind, len(items)) + b"".join(typed(kind, i) for i in items)


def entry(key: str | bytes, kind: int, body: bytes) -> bytes:
    """A metadata entry from the packed value."""
    return string(key) + struct.pack("<I", kind) + body


def guess(key: str, value: object) -> bytes:
    """A metadata entry with the type that the usual writers choose for the Python value."""
    if isinstance(value, bool):
        return entry(key, BOOL, typed(BOOL, int(value)))
    if isinstance(value, int):
        return entry(key, U32, typed(U32, value))
    if isinstance(value, float):
        return entry(key, F32, typed(F32, value))
    if isinstance(value, str):
        return entry(key, STRING, string(value))
    assert isinstance(value, list)
    first = value[0] if value else ""
    kind = STRING if isinstance(first, str) else F32 if isinstance(first, float) else I32
    return entry(key, ARRAY, array(kind, value))


def tensor_info(name: str | bytes, dims: Sequence[int], kind: int, offset: int) -> bytes:
    """A row of the tensor table; `dims` in GGUF's order, the contiguous one first."""
    return (
        string(name)
        + struct.pack("<I", len(dims))
        + struct.pack(f"<{len(dims)}Q", *dims)
        + struct.pack("<IQ", kind, offset)
    )


@dataclass
class Parts:
    """A file in pieces, so that a test can spoil one of them."""

    metadata: list[bytes] = field(default_factory=list)
    infos: list[bytes] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    num_tensors: int | None = None
    num_metadata: int | None = None

    def header(self) -> bytes:
        num_tensors = len(self.infos) if self.num_tensors is None else self.num_tensors
        num_metadata = len(self.metadata) if self.num_metadata is None else self.num_metadata
        return (
            self.magic
            + struct.pack("<IQQ", self.version, num_tensors, num_metadata)
            + b"".join(self.metadata)
            + b"".join(self.infos)
        )

    def pack(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + self.data


def parts_of(metadata: Mapping[str, object], tensors: Mapping[str, NDArray[np.float32]]) -> Parts:
    """A file of float32 tensors given in NumPy's order of dimensions."""
    parts = Parts([guess(key, value) for key, value in metadata.items()])
    for name, values in tensors.items():
        dims = tuple(reversed(values.shape))
        parts.infos.append(tensor_info(name, dims, 0, len(parts.data)))
        parts.data += np.ascontiguousarray(values, dtype="<f4").tobytes()
        parts.data += bytes(-len(parts.data) % 32)
    return parts


def write(path: Path, parts: Parts) -> Path:
    path.write_bytes(parts.pack())
    return path
