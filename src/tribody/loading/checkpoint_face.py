"""The one face of every checkpoint: named tensors in Hugging Face's names, read as float32.

A checkpoint is a folder (config.json, safetensors files, tokenizer files) or one .gguf file.
Readers hold a file descriptor, never a memory map of the weights: a file that is cut short while
it is read gives BadModel, where a map would kill the process with SIGBUS.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tribody.core.tokenizer_source import TokenizerSource
from tribody.loading.stored_codes import Codes


class Checkpoint(Protocol):
    """Named tensors plus what config.json and the tokenizer files say.

    config             config.json's content; for GGUF rebuilt from the metadata in HF's names
    generation_config  generation_config.json's content, {} when absent
    tokenizer_source   what `text` needs to build a tokenizer and a chat template
    fingerprint        hex SHA-256 over config, tensor table, file sizes and sampled content
    name               a short id for people, such as "SmolLM2-135M-Instruct"
    """

    @property
    def config(self) -> dict[str, object]: ...
    @property
    def generation_config(self) -> dict[str, object]: ...
    @property
    def tokenizer_source(self) -> TokenizerSource: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def name(self) -> str: ...

    def names(self) -> Iterable[str]:
        """Every weight's name, in file order; scale tensors of FP8 weights are not listed."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape under Hugging Face's conventions: (out_features, in_features) for a matrix.

        Raises: BadModel when the checkpoint has no such tensor.
        """
        ...

    def read(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """Read one tensor, dequantized; with `rows`, only that range of its first axis.

        Returns a fresh C-contiguous float32 array that the caller owns.
        Raises: BadModel when the name is unknown, the range is outside the tensor, the file was
        truncated since it was opened, or the values cannot be decoded (NaN codes in FP8).
        """
        ...

    def codes(self, name: str) -> Codes | None:
        """A whole matrix in the numbers it is stored in, as parts of a run-time format.

        None where no run-time format but float32 holds these numbers exactly.
        Raises: BadModel as `read` does.
        """
        ...

    def close(self) -> None:
        """Release the files; reading afterwards is an error of ours."""
        ...
