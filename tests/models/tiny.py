"""Tiny models of every family: configs as transformers write them, weights from a seed.

Weights are a function of (seed, tensor name) in integer arithmetic (PCG64's raw stream), so they
are the same on every machine and under every NumPy, and goldens need not store them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.models.config import read_config
from tribody.models.load import family_of
from tribody.precision.codes import Parts

F32 = NDArray[np.float32]

COMMON: dict[str, object] = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "rope_theta": 10000.0,
}
GROUPED_QUERY: dict[str, object] = COMMON | {"num_key_value_heads": 2, "head_dim": 16}
LATENT: dict[str, object] = COMMON | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
}
YARN: dict[str, object] = {
    "type": "yarn",
    "factor": 8.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
}
LLAMA3: dict[str, object] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _v3(
    q_lora_rank: int | None, n_group: int, topk_group: int, **more: object
) -> dict[str, object]:
    return LATENT | {
        "model_type": "deepseek_v3",
        "q_lora_rank": q_lora_rank,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "n_group": n_group,
        "topk_group": topk_group,
        "num_nextn_predict_layers": 0,
        **more,
    }


def _v2(**more: object) -> dict[str, object]:
    return LATENT | {
        "model_type": "deepseek_v2",
        "q_lora_rank": None,
        "scoring_func": "softmax",
        "topk_method": "greedy",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "n_shared_experts": 2,
        "n_group": 1,
        "topk_group": 1,
        **more,
    }


CONFIGS: dict[str, dict[str, object]] = {
    "llama": GROUPED_QUERY | {"model_type": "llama"},
    "llama-llama3-tied": GROUPED_QUERY
    | {"model_type": "llama", "rope_scaling": LLAMA3, "tie_word_embeddings": True},
    "llama-linear-bias": GROUPED_QUERY
    | {
        "model_type": "llama",
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "attention_bias": True,
    },
    "qwen2": GROUPED_QUERY | {"model_type": "qwen2", "use_sliding_window": False},
    "qwen2-yarn": GROUPED_QUERY
    | {
        "model_type": "qwen2",
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "qwen3": GROUPED_QUERY | {"model_type": "qwen3", "head_dim": 24, "rope_theta": 1e6},
    "v3-q-lora": _v3(24, 4, 2, rope_scaling=YARN),
    "v3-no-q-lora": _v3(None, 4, 2),
    "v3-groups-8-4": _v3(24, 8, 4, rope_scaling=YARN | {"mscale": 0.707, "mscale_all_dim": 0.9}),
    "v3-groups-2-1": _v3(24, 2, 1, norm_topk_prob=False),
    "v3-groups-1-1": _v3(None, 1, 1, rope_interleave=False),
    "v2-lite": _v2(rope_scaling=YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}),
    "v2-grouped": _v2(
        q_lora_rank=24,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=16.0,
        rope_scaling=YARN,
    ),
}


def uniform(seed: int, name: str, shape: tuple[int, ...]) -> F32:
    """Uniform in [-1, 1), from 24 random bits each (exact in float32)."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    raw = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(math.prod(shape))
    bits = (np.asarray(raw, np.uint64) >> np.uint64(40)).astype(np.float64)
    return (bits * 2.0**-23 - 1.0).astype(np.float32).reshape(shape)


def weight(seed: int, name: str, shape: tuple[int, ...]) -> F32:
    """One tensor, scaled so that activations stay near 1 and router scores lie apart."""
    values = uniform(seed, name, shape)
    if name.endswith("e_score_correction_bias"):
        return np.float32(0.4) * values
    if "norm" in name:
        return np.float32(1) + np.float32(0.2) * values
    if name.endswith(".bias"):
        return np.float32(0.5) * values
    if "embed_tokens" in name:
        return np.float32(math.sqrt(3)) * values
    gain = 4.0 if name.endswith("mlp.gate.weight") else 1.0
    return np.float32(gain * math.sqrt(3 / shape[-1])) * values


def tiny_weights(config: dict[str, object], seed: int) -> dict[str, F32]:
    parsed = read_config(config)
    shapes = family_of(parsed).tensor_shapes(parsed)
    return {name: weight(seed, name, shape) for name, shape in shapes}


class MemoryCheckpoint:
    """Tensors in a dict behind the interface of a checkpoint on disk."""

    def __init__(self, config: dict[str, object], tensors: dict[str, F32]) -> None:
        self.config = config
        self.tensors = tensors

    def names(self) -> Iterable[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def read(self, name: str, rows: slice | None = None) -> F32:
        return np.array(self.tensors[name] if rows is None else self.tensors[name][rows])

    def codes(self, name: str) -> tuple[WeightFormat, Parts]:
        return "float32", (self.read(name),)


def tiny_checkpoint(name: str, seed: int = 1) -> MemoryCheckpoint:
    return MemoryCheckpoint(CONFIGS[name], tiny_weights(CONFIGS[name], seed))


def tiny_tokens(length: int, seed: int = 1, vocab_size: int = 101) -> list[int]:
    raw = np.random.PCG64(seed).random_raw(length)
    return [int(value % vocab_size) for value in np.asarray(raw)]
