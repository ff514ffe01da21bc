"""Writes an ordinary Hugging Face folder: config, tokenizer, weights in one safetensors file.

Tensor by tensor, so that never more than one of them is in memory, and without torch.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tribody.core.tokenizer_source import TokenizerSource
from tribody.models.config import read_config
from tribody.models.load import family_of
from tribody.text import gguf_vocabulary
from tribody.text.special_tokens import special_token_strings

Tensor = Callable[[str, tuple[int, ...]], NDArray[np.float32]]


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of finite float32 numbers, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_folder(
    folder: Path, tokenizer: TokenizerSource, config: Mapping[str, object], tensor: Tensor
) -> None:
    """`folder` appears when it is complete.

    `tokenizer` is a GGUF file's: its vocabulary becomes a tokenizer.json.  Weights are kept in the
    config's "dtype": bfloat16, else float32.
    """
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_json(partial / "config.json", config)
    vocabulary = tokenizer.gguf_vocabulary
    assert vocabulary is not None
    (partial / "tokenizer.json").write_text(gguf_vocabulary.build(vocabulary).to_str(), "utf-8")
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.add_bos_token is True,
        "chat_template": tokenizer.chat_template,
        **special_token_strings(tokenizer),
    }
    _write_json(partial / "tokenizer_config.json", tokenizer_config)
    _write_weights(partial / "model.safetensors", config, tensor)
    os.replace(partial, folder)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _write_weights(path: Path, config: Mapping[str, object], tensor: Tensor) -> None:
    parsed = read_config(config)
    shapes = dict(family_of(parsed).tensor_shapes(parsed))
    # DeepSeek keeps the router's correction bias in float32 beside BF16 weights.
    half = {
        name: config.get("dtype") == "bfloat16" and not name.endswith("correction_bias")
        for name in shapes
    }
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * (2 if half[name] else 4)
        dtype = "BF16" if half[name] else "F32"
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            values = tensor(name, shape)
            file.write((to_bf16(values) if half[name] else values).data)
