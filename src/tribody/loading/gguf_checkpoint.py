"""A GGUF file, or the parts that a large one is split into, as a Checkpoint.

The configuration is rebuilt by `gguf_config`, tensors are renamed and put into Hugging Face's
order by `gguf_layout`, and the vocabulary becomes a GgufVocabulary.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tribody.core.errors import BadModel
from tribody.core.tokenizer_source import GgufVocabulary, TokenizerSource
from tribody.loading import gguf_config
from tribody.loading.fingerprint import fingerprint
from tribody.loading.gguf_file import GgufFile
from tribody.loading.gguf_layout import Stored, build_sources
from tribody.loading.gguf_metadata import Metadata
from tribody.loading.row_range import checked_rows
from tribody.loading.stored_codes import Codes

_MAX_PARTS = 512  # one descriptor each; the usual limit of a process is 1024
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_TYPE_SUFFIX = re.compile(r"[.-](I?Q\d\w*|F16|F32|BF16|FP16|FP32)$", re.IGNORECASE)


class GgufCheckpoint:
    """See `Checkpoint`.  `path` is the file, or the first of its parts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        stem = _PART.sub(r"\1.gguf", path.name).removesuffix(".gguf")
        self.name = _TYPE_SUFFIX.sub("", stem)
        self._files: list[GgufFile] = []
        try:
            self._open_parts(path)
            self._metadata = Metadata(path, self._files[0].metadata)
            tensors = self._collect()
            self.config = gguf_config.read_config(
                self._metadata, tensors.keys(), _vocab_size(path, tensors), _rope_factors(tensors)
            )
            self.generation_config = gguf_config.generation_config(self._metadata)
            self._sources = build_sources(self._metadata.architecture, tensors, self.config)
        except BadModel:
            self.close()
            raise

    @cached_property
    def tokenizer_source(self) -> TokenizerSource:
        vocabulary = _read_vocabulary(self._metadata)
        rows = self.config["vocab_size"]
        if isinstance(rows, int) and len(vocabulary.tokens) > rows:
            raise BadModel(
                f"{self._path}: the vocabulary has {len(vocabulary.tokens)} tokens but "
                f"token_embd.weight only {rows} rows; the file is malformed"
            )
        return TokenizerSource(
            chat_template=self._metadata.optional_text("tokenizer.chat_template"),
            gguf_vocabulary=vocabulary,
        )

    @cached_property
    def fingerprint(self) -> str:
        table = (
            (t.name, t.kind.name, t.shape, t.offset) for f in self._files for t in
            f.tensors.values()
        )  # fmt: skip
        return fingerprint(self.config, table, [file.file for file in self._files])

    def names(self) -> list[str]:
        return list(self._sources)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._sources:
            raise BadModel(f"{self._path}: has no tensor for {name!r}, which the model needs")
        return self._sources[name].shape

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        wanted = checked_rows(f"{self._path}: tensor {name!r}", self.shape(name), rows)
        return self._sources[name].read(wanted.start, wanted.stop - wanted.start)

    def codes(self, name: str) -> Codes | None:
        self.shape(name)  # refuses names that are not there
        return self._sources[name].codes()

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _open(self, path: Path) -> GgufFile:
        file = GgufFile(path)
        self._files.append(file)
        return file

    def _open_parts(self, path: Path) -> None:
        """Open the file and, when split.count says so, the other parts beside it."""
        first = Metadata(path, self._open(path).metadata)
        parts = first.optional_count("split.count", smallest=0) or 1
        if parts == 1:
            return
        match = _PART.fullmatch(path.name)
        number = first.count("split.no", smallest=0)
        if match is None or number != 0 or int(match[2]) != 1 or int(match[3]) != parts:
            raise BadModel(
                f"{path}: is part {number + 1} of {parts}; name the first part, "
                "NAME-00001-of-NNNNN.gguf, with the others beside it"
            )
        if parts > _MAX_PARTS:
            raise BadModel(f"{path}: is split into {parts} parts; the limit is {_MAX_PARTS}")
        for index in range(1, parts):
            self._open(path.with_name(f"{match[1]}-{index + 1:05d}-of-{match[3]}.gguf"))
        stated = first.optional_count("split.tensors.count")
        found = sum(len(file.tensors) for file in self._files)
        if stated not in (None, found):
            raise BadModel(f"{path}: its parts hold {found} tensors but should hold {stated}")

    def _collect(self) -> dict[str, Stored]:
        tensors: dict[str, Stored] = {}
        for file in self._files:
            for name, tensor in file.tensors.items():
                if name in tensors:
                    raise BadModel(f"{file.file.path}: tensor {name!r} is in two parts")
                tensors[name] = Stored(file, tensor)
        return tensors


def _vocab_size(path: Path, tensors: dict[str, Stored]) -> int:
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.tensor.shape) != 2:
        raise BadModel(f"{path}: has no matrix token_embd.weight; it is not a language model")
    return embedding.tensor.shape[0]


def _rope_factors(tensors: dict[str, Stored]) -> NDArray[np.float32] | None:
    stored = tensors.get("rope_freqs.weight")
    if stored is None:
        return None
    if len(stored.tensor.shape) != 1:
        raise stored.error(f"shape {stored.tensor.shape} must have one dimension")
    return stored.file.read_rows(stored.tensor, 0, 1).reshape(-1)


def _read_vocabulary(metadata: Metadata) -> GgufVocabulary:
    """The tokenizer.ggml.* keys.  Raises: BadModel when lists differ in length or ids are out."""
    tokens = metadata.strings("tokenizer.ggml.tokens")
    if not tokens:
        raise metadata.error("tokenizer.ggml.tokens", None, "list the tokens")
    types = metadata.numbers("tokenizer.ggml.token_type") or [1] * len(tokens)
    scores = metadata.numbers("tokenizer.ggml.scores")
    for key, items in (("token_type", types), ("scores", scores)):
        if items and len(items) != len(tokens):
            raise BadModel(
                f"{metadata.path}: metadata tokenizer.ggml.{key} has {len(items)} items for "
                f"{len(tokens)} tokens"
            )

    def token_id(key: str) -> int | None:
        value = metadata.optional_count(f"tokenizer.ggml.{key}_token_id", smallest=0)
        if value is not None and value >= len(tokens):
            raise metadata.error(
                f"tokenizer.ggml.{key}_token_id", value, f"be below the {len(tokens)} tokens"
            )
        return value

    return GgufVocabulary(
        model=metadata.text("tokenizer.ggml.model"),
        pre=metadata.optional_text("tokenizer.ggml.pre") or "",
        tokens=tokens,
        token_types=[int(kind) for kind in types],
        merges=metadata.strings("tokenizer.ggml.merges"),
        scores=[float(score) for score in scores],
        bos_token_id=token_id("bos"),
        eos_token_id=token_id("eos"),
        unknown_token_id=token_id("unknown"),
        padding_token_id=token_id("padding"),
        add_bos_token=metadata.flag("tokenizer.ggml.add_bos_token"),
        add_eos_token=metadata.flag("tokenizer.ggml.add_eos_token"),
        add_space_prefix=metadata.flag("tokenizer.ggml.add_space_prefix"),
        eot_token_id=token_id("eot"),
    )
