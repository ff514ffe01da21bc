"""Makes safetensors files byte by byte, right and wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

Tensors = dict[str, tuple[str, list[int], bytes]]  # name -> dtype, shape, data


def header_of(tensors: Tensors) -> tuple[dict[str, object], bytes]:
    """The header's content and the data for tensors that follow each other."""
    header: dict[str, object] = {}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return header, data


def pack(header: object, data: bytes, *, length: int | None = None) -> bytes:
    """A file from a header (JSON value, text or bytes) and data; `length` overrides the truth."""
    if isinstance(header, bytes):
        text = header
    elif isinstance(header, str):
        text = header.encode()
    else:
        text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def write(path: Path, tensors: Tensors) -> Path:
    path.write_bytes(pack(*header_of(tensors)))
    return path
