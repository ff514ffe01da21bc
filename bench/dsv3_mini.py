"""dsv3-mini: DeepSeek-V3's architecture at 757 million parameters, with random weights.

No checkpoint of DeepSeek-V3's architecture is small enough to be measured on a laptop, and speed
hardly asks what the weights are.  Random ones choose experts almost evenly; a trained model would
reuse some of them more, and so be faster with several sequences.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

VERSION = 1  # of what is written, beside the configuration and the seed
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


def content_id(config: Mapping[str, object]) -> str:
    """Names the weights: they depend on nothing else."""
    text = json.dumps([VERSION, SEED, SPREAD, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A function of (SEED, name).  Norms are one; everything else is normal(0, SPREAD)."""
    if "norm" in name:
        return np.ones(shape, np.float32)
    digest = hashlib.sha256(f"{SEED}/{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(SPREAD)
