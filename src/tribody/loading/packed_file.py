"""Packed weights on disk, mapped into memory: a model that starts without reading or encoding.

The file is an ordinary .safetensors file of byte tensors, each padded to `ALIGNMENT` bytes, behind
a header padded likewise, so that kernels read the map itself.  Metadata says what the bytes are:
`items` maps a key to its form (a run-time weight format, or "vector" for float32 numbers) and its
shape.  Files are written whole under another name and renamed, by us alone; a file that another
program cuts short while it is mapped would end the engine process (docs/decisions/011).
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tribody.core.errors import BadModel
from tribody.loading.safetensors_file import SafetensorsFile

ALIGNMENT = 64  # bytes: a cache line, and the widest vector load
VECTOR = "vector"

U8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PackedItem:
    """`form` is a weight format or VECTOR; `data` (n,) are its bytes, without padding."""

    key: str
    form: str
    shape: tuple[int, ...]
    data: U8


def _padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


class Item(Protocol):
    """What can be written: a `PackedItem`, or whatever has its fields."""

    @property
    def key(self) -> str: ...
    @property
    def form(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> U8: ...


def write_packed(path: Path, items: Iterable[Item], metadata: Mapping[str, str]) -> None:
    """Write all items, then rename into place; what stood at `path` is replaced at once.

    Raises: OSError when the disk is full or the folder cannot be written; nothing stays behind.
    """
    items = list(items)
    header: dict[str, object] = {
        "__metadata__": {
            **metadata,
            "items": json.dumps({item.key: [item.form, item.shape] for item in items}),
        }
    }
    offset = 0
    for item in items:
        size = _padded(len(item.data))
        header[item.key] = {
            "dtype": "U8",
            "shape": [size],
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for item in items:
                file.write(item.data.data)
                file.write(bytes(_padded(len(item.data)) - len(item.data)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class PackedFile:
    """A checked file whose items are views of one read-only map.

    Raises: BadModel naming the file and what is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        source = SafetensorsFile(path)
        try:
            self.path, self.metadata = path, source.metadata
            self._tensors = source.tensors
            self._forms = self._read_items()
            size = source.file.size
        finally:
            source.close()
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise BadModel(f"{path}: has changed its size while it was opened; try again")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes: U8 = np.frombuffer(mapped, np.uint8)

    def _read_items(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        try:
            listed = json.loads(self.metadata.get("items", "null"))
        except (ValueError, RecursionError) as error:
            raise self._bad(f"items is not valid JSON: {error}") from error
        if not isinstance(listed, dict) or set(listed) != set(self._tensors):
            raise self._bad("its metadata does not list its tensors")
        found = {}
        for key, value in listed.items():
            match value:
                case [str(form), [*shape]] if all(isinstance(n, int) and n > 0 for n in shape):
                    found[key] = (form, tuple(shape))
                case _:
                    raise self._bad(f"{key!r}: its form and shape are not stated")
            entry = self._tensors[key]
            if entry.dtype != "U8" or entry.offset % ALIGNMENT:
                raise self._bad(f"{key!r}: its bytes do not start at a multiple of {ALIGNMENT}")
        return found

    def _bad(self, what: str) -> BadModel:
        return BadModel(f"{self.path}: is not a packed model: {what}; write it again")

    def __iter__(self) -> Iterator[str]:
        """The keys of all items, in the order of the file."""
        return iter(self._forms)

    def item(self, key: str) -> PackedItem | None:
        """The item, its padding included in `data`; None when there is none of this key."""
        if key not in self._forms:
            return None
        form, shape = self._forms[key]
        entry = self._tensors[key]
        return PackedItem(
            key, form, shape, self._bytes[entry.offset : entry.offset + entry.num_bytes]
        )
