"""config.json rebuilt from a GGUF file's metadata, with the keys that transformers writes.

Four architectures: llama, qwen2, qwen3, and deepseek2 (which covers DeepSeek-V2 and V3; they are
told apart by the gate: sigmoid with a correction bias is V3).  Metadata that changes the
mathematics in a way that is not supported is refused by name; other unknown keys of the
architecture are reported once.
Source: the conversion scripts of llama.cpp, read to learn what each key holds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from tribody.core.errors import BadModel
from tribody.loading.gguf_metadata import Metadata

_LOG = logging.getLogger(__name__)

Config = dict[str, object]

ARCHITECTURES = ("llama", "qwen2", "qwen3", "deepseek2")
_CLASS_NAMES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}
_SOFTMAX, _SIGMOID = 1, 2  # expert_gating_func

_REFUSED_UNLESS_ZERO = (
    ".attention.sliding_window", ".attention.scale", ".attention.clamp_kqv",
    ".attention.max_alibi_bias", ".attention.temperature_scale", ".attn_logit_softcapping",
    ".final_logit_softcapping", ".router_logit_softcapping", ".logit_scale", ".residual_scale",
    ".embedding_scale", ".use_parallel_residual", ".attention.indexer.head_count",
    ".hyper_connection.count", ".swiglu_clamp_exp",
)  # fmt: skip
_DENSE_REFUSED_UNLESS_ZERO = (".expert_count",)
_REFUSED_UNLESS_ONE = (
    ".rope.scale_linear", ".rope.scaling.attn_factor", ".rope.scaling.yarn_attn_factor",
    ".rope.scaling.yarn_ext_factor",
)  # fmt: skip
_NEUTRAL = (
    ".tensor_data_layout", ".rope.scaling.finetuned", ".attention.layer_norm_epsilon",
    ".expert_group_scale", ".rope.dimension_sections", ".attention.causal", ".pooling_type",
)  # fmt: skip


def read_config(
    metadata: Metadata,
    tensor_names: Collection[str],
    vocab_size: int,
    rope_factors: NDArray[np.float32] | None,
) -> Config:
    """Rebuild config.json.

    `vocab_size` is the embedding's first dimension; `rope_factors` is rope_freqs.weight if any.
    Raises: BadModel for an unsupported architecture or key, or a missing or absurd value.
    """
    if metadata.architecture not in ARCHITECTURES:
        raise BadModel(
            f"{metadata.path}: architecture {metadata.architecture!r:.40} is not supported; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    _refuse_unsupported(metadata)
    config = _common(metadata, tensor_names, vocab_size)
    if metadata.architecture == "deepseek2":
        config |= _deepseek(metadata, tensor_names)
    else:
        config |= _dense(metadata, tensor_names)
    scaling = _rope_scaling(metadata, config, rope_factors)
    if scaling is not None:
        config["rope_scaling"] = scaling
    config["architectures"] = [_CLASS_NAMES[str(config["model_type"])]]
    for key in _NEUTRAL:
        metadata.get(key)
    unknown = metadata.never_asked()
    if unknown:
        _LOG.warning("event=unknown_gguf_keys file=%s keys=%s", metadata.path, ",".join(unknown))
    return config


def generation_config(metadata: Metadata) -> Config:
    """generation_config.json from the general.sampling.* keys and the end-of-turn tokens."""
    config: Config = {}
    for key, name in (
        ("temp", "temperature"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("penalty_repeat", "repetition_penalty"),
    ):
        value = metadata.optional_number(f"general.sampling.{key}")
        if value is not None:
            config[name] = value
    top_k = metadata.optional_count("general.sampling.top_k", smallest=0)
    if top_k is not None:
        config["top_k"] = top_k
    ends = [metadata.optional_count(f"tokenizer.ggml.{kind}_token_id", smallest=0)
            for kind in ("eos", "eot", "eom")]  # fmt: skip
    present = list(dict.fromkeys(end for end in ends if end is not None))
    if present:
        config["eos_token_id"] = present
    return config


def _refuse_unsupported(metadata: Metadata) -> None:
    dense = metadata.architecture != "deepseek2"
    zero = _REFUSED_UNLESS_ZERO + (_DENSE_REFUSED_UNLESS_ZERO if dense else ())
    for keys, neutral in ((zero, 0), (_REFUSED_UNLESS_ONE, 1)):
        for key in keys:
            value = metadata.get(key)
            if value is not None and np.any(np.asarray(value) != neutral):
                raise metadata.error(key, value, "be absent: its mathematics is not supported")
    if metadata.flag(".attention.causal") is False:
        raise metadata.error(".attention.causal", False, "be true: only causal models are served")


def _common(metadata: Metadata, tensor_names: Collection[str], vocab_size: int) -> Config:
    stated = metadata.optional_count(".vocab_size")
    if stated is not None and stated != vocab_size:
        raise metadata.error(".vocab_size", stated, f"equal the {vocab_size} rows of token_embd")
    heads = metadata.count(".attention.head_count")
    nextn = metadata.optional_count(".nextn_predict_layers", smallest=0) or 0
    layers = metadata.count(".block_count") - nextn
    if layers < 1:
        raise metadata.error(".nextn_predict_layers", nextn, "be smaller than block_count")
    config: Config = {
        "vocab_size": vocab_size,
        "hidden_size": metadata.count(".embedding_length"),
        "intermediate_size": metadata.count(".feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": metadata.count(".context_length"),
        "rms_norm_eps": metadata.number(".attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.optional_number(".rope.freq_base") or 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in tensor_names,
        "bos_token_id": metadata.optional_count("tokenizer.ggml.bos_token_id", smallest=0),
        "eos_token_id": metadata.optional_count("tokenizer.ggml.eos_token_id", smallest=0),
    }
    if nextn:
        config["num_nextn_predict_layers"] = nextn
    return config


def _dense(metadata: Metadata, tensor_names: Collection[str]) -> Config:
    heads = metadata.count(".attention.head_count")
    head_dim = metadata.optional_count(".attention.key_length")
    if head_dim is None:
        hidden = metadata.count(".embedding_length")
        if hidden % heads:
            raise metadata.error(
                ".embedding_length", hidden, f"be a multiple of the {heads} heads, or .attention."
                "key_length must be given"
            )  # fmt: skip
        head_dim = hidden // heads
    for key in (".attention.value_length", ".rope.dimension_count"):
        value = metadata.optional_count(key)
        if value not in (None, head_dim):
            raise metadata.error(key, value, f"equal the head's {head_dim} dimensions")
    config: Config = {
        "model_type": metadata.architecture,
        "num_key_value_heads": metadata.optional_count(".attention.head_count_kv") or heads,
        "head_dim": head_dim,
    }
    if metadata.architecture != "qwen2":  # Qwen2 always has biases on q, k and v and no key
        config["attention_bias"] = "blk.0.attn_q.bias" in tensor_names
    return config


def _deepseek(metadata: Metadata, tensor_names: Collection[str]) -> Config:
    """MLA and expert keys.  The converter leaves the rotary parts as DeepSeek stores them, in
    interleaved pairs, so nothing is permuted and rope_interleave is true."""
    rope_dim = metadata.count(".rope.dimension_count")
    rank = metadata.count(".attention.kv_lora_rank")
    key_length = metadata.optional_count(".attention.key_length_mla")
    value_length = metadata.optional_count(".attention.value_length_mla")
    # Files from before April 2025 have no _mla keys and state the per-head lengths instead of
    # those of the latent (rank + rope_dim).
    key_length = key_length or metadata.count(".attention.key_length")
    value_length = value_length or metadata.count(".attention.value_length")
    for key in (".attention.key_length", ".attention.value_length", ".attention.head_count_kv"):
        metadata.get(key)
    if key_length <= rope_dim:
        raise metadata.error(".rope.dimension_count", rope_dim, f"be below key_length {key_length}")
    heads = metadata.count(".attention.head_count")
    return {
        "num_key_value_heads": heads,
        "q_lora_rank": metadata.optional_count(".attention.q_lora_rank"),
        "kv_lora_rank": rank,
        "qk_nope_head_dim": key_length - rope_dim,
        "qk_rope_head_dim": rope_dim,
        "v_head_dim": value_length,
        "attention_bias": False,
        "rope_interleave": True,
        **_experts(metadata, tensor_names),
    }


def _experts(metadata: Metadata, tensor_names: Collection[str]) -> Config:
    has_bias = any(name.endswith("exp_probs_b.bias") for name in tensor_names)
    gate = metadata.optional_count(".expert_gating_func", smallest=0)
    if gate not in (None, 0, _SOFTMAX, _SIGMOID):
        raise metadata.error(".expert_gating_func", gate, "be 1 (softmax) or 2 (sigmoid)")
    # Files from before the key exists hold DeepSeek-V2 models, whose gate is softmax; a
    # correction bias exists only beside a sigmoid gate.
    sigmoid = gate == _SIGMOID or (not gate and has_bias)
    groups = metadata.optional_count(".expert_group_count", smallest=0) or 1
    top_groups = metadata.optional_count(".expert_group_used_count", smallest=0) or 1
    if sigmoid and metadata.get(".expert_group_count") is None:
        _LOG.warning(
            "event=no_expert_groups file=%s note=experts_are_chosen_without_group_limit",
            metadata.path,
        )
    method = "group_limited_greedy" if groups > 1 else "greedy"
    return {
        "model_type": "deepseek_v3" if sigmoid else "deepseek_v2",
        "first_k_dense_replace": metadata.count(".leading_dense_block_count", smallest=0),
        "moe_intermediate_size": metadata.count(".expert_feed_forward_length"),
        "n_routed_experts": metadata.count(".expert_count"),
        "n_shared_experts": metadata.optional_count(".expert_shared_count", smallest=0) or 0,
        "num_experts_per_tok": metadata.count(".expert_used_count"),
        "n_group": groups,
        "topk_group": top_groups,
        "topk_method": "noaux_tc" if sigmoid else method,
        "scoring_func": "sigmoid" if sigmoid else "softmax",
        "norm_topk_prob": metadata.flag(".expert_weights_norm") or False,
        # 0 means "not stated" in files of some writers; the factor is then 1.
        "routed_scaling_factor": metadata.optional_number(".expert_weights_scale") or 1.0,
        "moe_layer_freq": 1,
    }


def _rope_scaling(
    metadata: Metadata, config: Config, factors: NDArray[np.float32] | None
) -> Config | None:
    kind = metadata.optional_text(".rope.scaling.type")
    factor = metadata.optional_number(".rope.scaling.factor")
    original = metadata.optional_count(".rope.scaling.original_context_length")
    betas = {
        name: metadata.optional_number(f".rope.scaling.yarn_{name}")
        for name in ("beta_fast", "beta_slow")
    }
    log_multiplier = metadata.optional_number(".rope.scaling.yarn_log_multiplier")
    if factors is not None:
        return _llama3_scaling(metadata, config, factors)
    if kind in (None, "none") or factor in (None, 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise metadata.error(".rope.scaling.type", kind, "be none, linear or yarn")
    scaling: Config = {"rope_type": "yarn", "factor": factor}
    scaling["original_max_position_embeddings"] = original or config["max_position_embeddings"]
    scaling |= {name: value for name, value in betas.items() if value is not None}
    if metadata.architecture == "deepseek2" and log_multiplier:
        # The converter writes 0.1 * mscale_all_dim and drops mscale, which equals it in every
        # published DeepSeek model.
        scaling["mscale"] = scaling["mscale_all_dim"] = round(log_multiplier * 10, 6)
    return scaling


def _llama3_scaling(
    metadata: Metadata, config: Config, factors: NDArray[np.float32]
) -> Config | None:
    """Find the llama3 parameters that give these divisors of the rotary frequencies.

    The converter stores only the result, with the original context left out; the parameters that
    are in use are few, so they are tried and the exact match is taken.
    Raises: BadModel when none matches.
    """
    if (factors == 1).all():
        return None
    rotary_dim = metadata.optional_count(".rope.dimension_count") or config.get("head_dim")
    if rotary_dim != 2 * factors.size or not isinstance(rotary_dim, int):
        raise BadModel(
            f"{metadata.path}: rope_freqs.weight has {factors.size} values; the rotary dimension "
            f"{rotary_dim} needs half as many as itself"
        )
    theta = metadata.optional_number(".rope.freq_base") or 10000.0
    factor = float(factors.max())
    for original in (8192, 4096, 2048, 16384, 32768, 65536, 131072):
        for low, high in ((1.0, 4.0), (1.0, 32.0), (1.0, 2.0), (1.0, 8.0)):
            wanted = _llama3_divisors(rotary_dim, theta, factor, (low, high, original))
            if np.allclose(wanted, factors, rtol=1e-4):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low,
                    "high_freq_factor": high,
                    "original_max_position_embeddings": original,
                }
    raise BadModel(
        f"{metadata.path}: rope_freqs.weight (largest {factor}) fits no llama3 scaling of "
        f"theta {theta}; use the safetensors checkpoint, whose config.json states it"
    )


def _llama3_divisors(
    rotary_dim: int, theta: float, factor: float, bands: tuple[float, float, int]
) -> NDArray[np.float64]:
    """What llama3 scaling divides each rotary frequency by.  Source: the Llama 3.1 model code."""
    low, high, original = bands
    wavelengths = 2 * math.pi * theta ** (np.arange(0, rotary_dim, 2) / rotary_dim)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth))
