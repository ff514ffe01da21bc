"""dsv3-mini: DeepSeek-V3's architecture at 757 million parameters, with random weights.

No checkpoint of DeepSeek-V3's architecture is small enough to be measured on a laptop, and speed
does not ask what the weights are.  Written as an ordinary Hugging Face folder, tensor by tensor,
so that never more than one of them is in memory.  Random weights choose experts almost evenly; a
trained model would reuse some of them more, and so be faster with several sequences.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tribody.core.tokenizer_source import TokenizerSource
from tribody.models.config import read_config
from tribody.models.load import family_of
from tribody.text import gguf_vocabulary
from tribody.text.special_tokens import special_token_strings

VERSION = 1  # of what this file writes, beside the configuration and the seed
SEED = 1234
SPREAD = 0.02  # the standard deviation that DeepSeek's own models start from

CONFIG: dict[str, object] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "dtype": "bfloat16",
    "vocab_size": 49152,
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "first_k_dense_replace": 1,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": 384,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 32,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 512,
    "moe_layer_freq": 1,
    "n_group": 4,
    "topk_group": 2,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 0,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

Shape = tuple[int, ...]


def content_id(config: Mapping[str, object]) -> str:
    """Names what `write_folder` writes: it depends on nothing else."""
    text = json.dumps([VERSION, SEED, SPREAD, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def tensor(name: str, shape: Shape) -> NDArray[np.float32]:
    """A function of (SEED, name).  Norms are one; everything else is normal(0, SPREAD)."""
    if "norm" in name:
        return np.ones(shape, np.float32)
    digest = hashlib.sha256(f"{SEED}/{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(SPREAD)


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of finite float32 numbers, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_folder(folder: Path, tokenizer: TokenizerSource, config: Mapping[str, object]) -> None:
    """Config, tokenizer and weights; `folder` appears when it is complete.

    `tokenizer` is a GGUF file's: its vocabulary becomes a tokenizer.json.
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
    _write_weights(partial / "model.safetensors", config)
    os.replace(partial, folder)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _write_weights(path: Path, config: Mapping[str, object]) -> None:
    """BF16, but for the router's correction bias, which DeepSeek keeps in float32."""
    parsed = read_config(config)
    shapes = dict(family_of(parsed).tensor_shapes(parsed))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * (4 if _is_float32(name) else 2)
        dtype = "F32" if _is_float32(name) else "BF16"
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            values = tensor(name, shape)
            file.write((values if _is_float32(name) else to_bf16(values)).data)


def _is_float32(name: str) -> bool:
    return name.endswith("e_score_correction_bias")
