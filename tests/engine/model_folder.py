"""A model folder as users have them, written from a tiny model: config, weights, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.models.tiny import CONFIGS, tiny_weights

VOCAB_SIZE = 258  # 256 bytes and two control tokens
BOS, EOS = 256, 257


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and <s>, </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken("<s>", special=True), AddedToken("</s>", special=True)]
    )
    return tokenizer


def write_model_folder(folder: Path, name: str, seed: int = 1) -> Path:
    """The tiny model `name` of tests.models.tiny with a byte tokenizer, as files on disk."""
    config = CONFIGS[name] | {
        "vocab_size": VOCAB_SIZE,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "max_position_embeddings": 2048,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tiny_weights(config, seed), folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(byte_tokenizer().to_str())
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template})
    )
    return folder
