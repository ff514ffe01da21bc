"""A whole model in one packed file (`NAME.tribody`): weights as they run, configuration, tokenizer.

`tribody quantize` writes such files for people, and the engine writes one into its cache at a
model's first start, so that the next start maps it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tribody.core.errors import BadModel
from tribody.core.tokenizer_source import TokenizerSource
from tribody.loading.checkpoint_face import Checkpoint
from tribody.loading.packed_file import PackedFile, Progress, write_packed
from tribody.loading.stored_codes import Codes
from tribody.precision.packed_item import PackedItem

SUFFIX = ".tribody"
VERSION = "1"  # of the layout of all formats: a file of another one is refused, a cache made anew
JSON = "json"

_CONFIG, _GENERATION, _TOKENIZER = "config", "generation_config", "tokenizer"


class PackedCheckpoint:
    """See `Checkpoint`.  There are no tensors to read: weights are asked for by `packed`.

    `manifest` says how the formats were chosen; {} for a cached plain model, which has a
    `cache_key` instead.  The fingerprint is the source's with the formats and the checksums of what
    was made of it, so two precisions of one model never share a name.
    Raises: BadModel naming the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = PackedFile(path)
        version = self._file.metadata.get("version")
        if version != VERSION:
            raise BadModel(
                f"{path}: is of layout {version!r}; this tribody reads {VERSION!r}: run "
                "`tribody quantize` again"
            )
        self.name = self._file.metadata.get("name", path.stem)
        self.cache_key = self._file.metadata.get("cache_key")
        self.fingerprint = self._fingerprint()
        self.config = self._object(_CONFIG)
        self.generation_config = self._object(_GENERATION)
        self.manifest = self._object("manifest")
        try:
            self.tokenizer_source = msgspec.json.decode(
                self._bytes(_TOKENIZER), type=TokenizerSource
            )
        except msgspec.MsgspecError as error:
            raise BadModel(f"{path}: its tokenizer cannot be read: {error}") from error

    def _fingerprint(self) -> str:
        stated = (self._file.metadata.get(key, "") for key in ("fingerprint", "items", "crc32"))
        return hashlib.sha256("\0".join(stated).encode()).hexdigest()

    @property
    def has_checksums(self) -> bool:
        return self._file.has_checksums

    def verify(self, progress: Progress | None = None) -> None:
        """Read the whole file.  Raises: BadModel when it is not what was written."""
        self._file.verify(progress)

    def packed(self, key: str) -> PackedItem:
        """The item of this key.  Raises: BadModel when there is none."""
        item = self._file.item(key)
        if item is None:
            raise BadModel(f"{self._file.path}: lacks {key}; write it again")
        return item

    def names(self) -> Iterable[str]:
        """Of the tensors that are packed alone; joined ones have no name of their own."""
        return [f"{key}.weight" for key in self._file if "+" not in key]

    def shape(self, name: str) -> tuple[int, ...]:
        raise BadModel(f"{self._file.path}: is packed; {name} cannot be read by itself")

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        raise BadModel(f"{self._file.path}: is packed; {name} cannot be read by itself")

    def codes(self, name: str) -> Codes | None:
        raise BadModel(f"{self._file.path}: is packed; {name} cannot be read by itself")

    def close(self) -> None:
        """Nothing to do: the map lives as long as the weights that are views of it."""

    def _bytes(self, key: str) -> bytes:
        item = self.packed(key)
        if item.form != JSON or len(item.shape) != 1 or item.shape[0] > len(item.data):
            raise BadModel(f"{self._file.path}: {key} is not JSON; write it again")
        return item.data[: item.shape[0]].tobytes()

    def _object(self, key: str) -> dict[str, object]:
        try:
            value = json.loads(self._bytes(key))
        except (ValueError, RecursionError) as error:
            raise BadModel(f"{self._file.path}: {key} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BadModel(f"{self._file.path}: {key} is not an object; write it again")
        return value


def write_checkpoint(
    path: Path,
    source: Checkpoint,
    weights: Iterable[PackedItem],
    manifest: dict[str, object],
    *,
    cache_key: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Pack `source`'s description and these weights into one file.  Raises: OSError."""
    texts = {
        _CONFIG: json.dumps(source.config).encode(),
        _GENERATION: json.dumps(source.generation_config).encode(),
        _TOKENIZER: msgspec.json.encode(source.tokenizer_source),
        "manifest": json.dumps(manifest).encode(),
    }
    items = [
        PackedItem(key, JSON, (len(text),), np.frombuffer(text, np.uint8))
        for key, text in texts.items()
    ]
    metadata = {"version": VERSION, "name": source.name, "fingerprint": source.fingerprint}
    if cache_key is not None:
        metadata["cache_key"] = cache_key
    write_packed(path, [*items, *weights], metadata, progress)
