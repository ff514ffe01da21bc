"""Packed weights on disk, mapped into memory: a model that starts without reading or encoding.

The file is an ordinary .safetensors file of byte tensors, each padded to `ALIGNMENT` bytes, behind
a header padded likewise, so that kernels read the map itself.  Metadata says what the bytes are:
`items` maps a key to its form (a run-time weight format, or "vector" for float32 numbers) and its
shape; `crc32` maps it to the checksum of its padded bytes.  Files are written whole under another
name and renamed, by us alone; a file that another program cuts short while it is mapped would end
the engine process (docs/decisions/011).
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tribody.core.errors import BadModel
from tribody.loading.open_file import OpenFile
from tribody.loading.safetensors_file import SafetensorsFile
from tribody.precision.formats import ALIGNMENT
from tribody.precision.packed_item import PackedItem
from tribody.precision.quantize import U8

CHECK_THREADS = 8
CHECKED_AT_ONCE_BYTES = 4 << 20
# zlib's CRC-32 takes 0.25 ms a megabyte (2-core Xeon): one thread is enough for a small model, and
# eight read as fast as any disk.  Four MiB stay in the second-level cache between read and check.

Progress = Callable[[int, int], None]  # bytes done, bytes in all


def _padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _checksum(data: U8) -> int:
    return zlib.crc32(bytes(_padded(len(data)) - len(data)), zlib.crc32(data.data))


def write_packed(
    path: Path,
    items: Iterable[PackedItem],
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> None:
    """Write all items, then rename into place; what stood at `path` is replaced at once.

    Raises: OSError when the disk is full or the folder cannot be written; nothing stays behind.
    """
    items = list(items)
    header: dict[str, object] = {
        "__metadata__": {
            **metadata,
            "items": json.dumps({item.key: [item.form, item.shape] for item in items}),
            "crc32": json.dumps({item.key: _checksum(item.data) for item in items}),
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
                if progress is not None:
                    progress(file.tell() - 8 - len(text), offset)
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
            self._checksums = self._read_checksums()
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

    def _read_checksums(self) -> dict[str, int] | None:
        """None for a file of before checksums were written."""
        if "crc32" not in self.metadata:
            return None
        try:
            listed = json.loads(self.metadata["crc32"])
        except (ValueError, RecursionError) as error:
            raise self._bad(f"crc32 is not valid JSON: {error}") from error
        if not isinstance(listed, dict) or set(listed) != set(self._tensors):
            raise self._bad("it does not state the checksums of its tensors")
        return listed

    @property
    def has_checksums(self) -> bool:
        return self._checksums is not None

    def verify(self, progress: Progress | None = None) -> None:
        """Read the file and compare every item with its checksum.

        By reads, not through the map: a disk that fails gives an error here, and no SIGBUS.
        Raises: BadModel naming the item; for a file without checksums too.
        """
        if self._checksums is None:
            raise self._bad("it states no checksums")
        total, done = sum(entry.num_bytes for entry in self._tensors.values()), 0
        file = OpenFile(self.path)
        try:
            with ThreadPoolExecutor(min(CHECK_THREADS, os.cpu_count() or 1)) as threads:
                for key, right in threads.map(lambda key: (key, self._is_right(file, key)), self):
                    if not right:
                        raise self._bad(f"{key!r}: its bytes are not those that were written")
                    done += self._tensors[key].num_bytes
                    if progress is not None:
                        progress(done, total)
        except OSError as error:
            raise self._bad(f"it cannot be read: {error.strerror}") from error
        finally:
            file.close()

    def _is_right(self, file: OpenFile, key: str) -> bool:
        offset, left = self._tensors[key].offset, self._tensors[key].num_bytes
        found = 0
        while left:
            size = min(left, CHECKED_AT_ONCE_BYTES)
            found = zlib.crc32(file.read(offset, size).data, found)
            offset, left = offset + size, left - size
        assert self._checksums is not None
        return found == self._checksums[key]

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
