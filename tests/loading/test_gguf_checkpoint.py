"""GGUF files as checkpoints: names, permutations, stacks, splits, and the rebuilt config.json.

Each test makes random tensors in Hugging Face's layout, stores them as llama.cpp's converter does,
and expects the checkpoint to give the originals back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.loading import gguf_maker as make
from tribody.core.errors import BadModel
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.checkpoint_face import Checkpoint

F32 = NDArray[np.float32]
VOCAB = 11

TOKENIZER: dict[str, object] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": [f"t{i}" for i in range(VOCAB)],
    "tokenizer.ggml.token_type": [3, 3] + [1] * (VOCAB - 2),
    "tokenizer.ggml.merges": ["t 2", "t 3"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "{{ messages }}",
}


def dense_metadata(architecture: str, **changes: object) -> dict[str, object]:
    """Two layers, 16 wide, 4 heads of 6 with 2 key-value heads."""
    values: dict[str, object] = {
        "block_count": 2, "context_length": 128, "embedding_length": 16,
        "feed_forward_length": 20, "attention.head_count": 4, "attention.head_count_kv": 2,
        "attention.key_length": 6, "attention.value_length": 6, "rope.dimension_count": 6,
        "rope.freq_base": 500000.0, "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    metadata: dict[str, object] = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{k}": v for k, v in values.items() if v is not None}
    return metadata | TOKENIZER


def dense_tensors(*, biases: bool, norms: bool, tied: bool) -> dict[str, F32]:
    """Random weights in Hugging Face's names and layout."""
    rng = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, 16)}
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, 16)
    for layer in ("model.layers.0.", "model.layers.1."):
        rows = {"q": 24, "k": 12, "v": 12}
        for part, count in rows.items():
            shapes[f"{layer}self_attn.{part}_proj.weight"] = (count, 16)
            if biases:
                shapes[f"{layer}self_attn.{part}_proj.bias"] = (count,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (16, 24)
        if norms:
            shapes[f"{layer}self_attn.q_norm.weight"] = (6,)
            shapes[f"{layer}self_attn.k_norm.weight"] = (6,)
        shapes[f"{layer}mlp.gate_proj.weight"] = (20, 16)
        shapes[f"{layer}mlp.up_proj.weight"] = (20, 16)
        shapes[f"{layer}mlp.down_proj.weight"] = (16, 20)
        shapes[f"{layer}input_layernorm.weight"] = (16,)
        shapes[f"{layer}post_attention_layernorm.weight"] = (16,)
    shapes["model.norm.weight"] = (16,)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


RENAMED = {
    "model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm",
    "model.layers.": "blk.", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm", "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias", "mlp.gate": "ffn_gate_inp",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def gguf_name(name: str) -> str:
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours)
    return name


def pairs(values: F32, heads: int) -> F32:
    """The converter's reordering of llama's q and k: halves of a head become pairs."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def to_gguf(tensors: Mapping[str, F32], architecture: str) -> dict[str, F32]:
    stored = {}
    for name, values in tensors.items():
        if architecture == "llama" and ".q_proj." in name:
            values = pairs(values, 4)
        if architecture == "llama" and ".k_proj." in name:
            values = pairs(values, 2)
        stored[gguf_name(name)] = values
    return stored


def opened(
    tmp_path: Path, metadata: Mapping[str, object], tensors: Mapping[str, F32]
) -> Checkpoint:
    path = make.write(tmp_path / "tiny-Q8_0.gguf", make.parts_of(metadata, tensors))
    return open_checkpoint(path)


def assert_same_tensors(checkpoint: Checkpoint, tensors: Mapping[str, F32]) -> None:
    assert sorted(checkpoint.names()) == sorted(tensors)
    for name, expected in tensors.items():
        assert checkpoint.shape(name) == expected.shape
        np.testing.assert_array_equal(checkpoint.read(name), expected, err_msg=name)
        rows = expected.shape[0]
        for start, stop in ((0, 1), (rows // 3, rows - 1), (rows - 1, rows), (2, 2)):
            values = checkpoint.read(name, slice(start, stop))
            assert values.flags.c_contiguous
            np.testing.assert_array_equal(values, expected[start:stop], err_msg=name)


@pytest.mark.parametrize(
    ("architecture", "biases", "norms", "tied"),
    [
        ("llama", False, False, False),
        ("llama", True, False, True),
        ("qwen2", True, False, True),
        ("qwen3", False, True, False),
    ],
)
def test_dense(architecture: str, biases: bool, norms: bool, tied: bool, tmp_path: Path) -> None:
    tensors = dense_tensors(biases=biases, norms=norms, tied=tied)
    metadata = dense_metadata(architecture)
    checkpoint = opened(tmp_path, metadata, to_gguf(tensors, architecture))
    assert_same_tensors(checkpoint, tensors)
    config = dict(checkpoint.config)
    assert config.pop("architectures")
    assert config.pop("attention_bias", biases) == biases
    assert config == {
        "model_type": architecture, "vocab_size": VOCAB, "hidden_size": 16,
        "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "hidden_act": "silu",
        "tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    assert checkpoint.name == "tiny"
    checkpoint.close()


def test_vocabulary_and_template(tmp_path: Path) -> None:
    tensors = to_gguf(dense_tensors(biases=False, norms=False, tied=True), "llama")
    more = {"tokenizer.ggml.eot_token_id": 4, "general.sampling.temp": 0.6,
            "general.sampling.top_k": 20}  # fmt: skip
    checkpoint = opened(tmp_path, dense_metadata("llama") | more, tensors)
    source = checkpoint.tokenizer_source
    assert source.chat_template == "{{ messages }}"
    vocabulary = source.gguf_vocabulary
    assert vocabulary is not None
    assert (vocabulary.model, vocabulary.pre) == ("gpt2", "qwen2")
    assert vocabulary.tokens == TOKENIZER["tokenizer.ggml.tokens"]
    assert vocabulary.token_types == TOKENIZER["tokenizer.ggml.token_type"]
    assert vocabulary.merges == ["t 2", "t 3"]
    assert vocabulary.scores == []
    assert (vocabulary.bos_token_id, vocabulary.eos_token_id, vocabulary.eot_token_id) == (0, 1, 4)
    assert (vocabulary.unknown_token_id, vocabulary.padding_token_id) == (None, None)
    assert (vocabulary.add_bos_token, vocabulary.add_eos_token) == (True, None)
    assert checkpoint.generation_config == {
        "temperature": 0.6, "top_k": 20, "eos_token_id": [1, 4]
    }  # fmt: skip


DEEPSEEK_CONFIG = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 3, "kv_lora_rank": 8, "qk_nope_head_dim": 5, "qk_rope_head_dim": 4,
    "v_head_dim": 7, "moe_intermediate_size": 10, "n_routed_experts": 6, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "rope_interleave": True,
}  # fmt: skip


def deepseek_metadata(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "block_count": 2, "context_length": 256, "embedding_length": 16,
        "feed_forward_length": 20, "attention.head_count": 3, "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 10000.0,
        "rope.dimension_count": 4, "attention.kv_lora_rank": 8, "attention.key_length": 12,
        "attention.value_length": 8, "attention.key_length_mla": 9,
        "attention.value_length_mla": 7, "leading_dense_block_count": 1, "expert_count": 6,
        "expert_used_count": 2, "expert_shared_count": 1, "expert_feed_forward_length": 10,
        "expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": 2,
        "expert_group_count": 3, "expert_group_used_count": 2, "vocab_size": VOCAB,
    }  # fmt: skip
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    kept = {f"deepseek2.{k}": v for k, v in values.items() if v is not None}
    return {"general.architecture": "deepseek2"} | kept | TOKENIZER


def deepseek_tensors(*, q_lora_rank: int, bias: bool) -> dict[str, F32]:
    rng = np.random.default_rng(6)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, 16),
        "lm_head.weight": (VOCAB, 16),
        "model.norm.weight": (16,),
    }
    for index, layer in enumerate(("model.layers.0.", "model.layers.1.")):
        if q_lora_rank:
            shapes[f"{layer}self_attn.q_a_proj.weight"] = (q_lora_rank, 16)
            shapes[f"{layer}self_attn.q_a_layernorm.weight"] = (q_lora_rank,)
            shapes[f"{layer}self_attn.q_b_proj.weight"] = (27, q_lora_rank)
        else:
            shapes[f"{layer}self_attn.q_proj.weight"] = (27, 16)
        shapes[f"{layer}self_attn.kv_a_proj_with_mqa.weight"] = (12, 16)
        shapes[f"{layer}self_attn.kv_a_layernorm.weight"] = (8,)
        shapes[f"{layer}self_attn.kv_b_proj.weight"] = (36, 8)
        shapes[f"{layer}self_attn.o_proj.weight"] = (16, 21)
        shapes[f"{layer}input_layernorm.weight"] = (16,)
        shapes[f"{layer}post_attention_layernorm.weight"] = (16,)
        experts = [f"experts.{i}" for i in range(6)] + ["shared_experts"]
        for part in [f"mlp.{e}" for e in experts] if index else ["mlp"]:
            width = 10 if index else 20
            shapes[f"{layer}{part}.gate_proj.weight"] = (width, 16)
            shapes[f"{layer}{part}.up_proj.weight"] = (width, 16)
            shapes[f"{layer}{part}.down_proj.weight"] = (16, width)
        if index:
            shapes[f"{layer}mlp.gate.weight"] = (6, 16)
            if bias:
                shapes[f"{layer}mlp.gate.e_score_correction_bias"] = (6,)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def deepseek_to_gguf(tensors: Mapping[str, F32], *, split: bool, whole: bool) -> dict[str, F32]:
    """Stack the experts; store kv_b whole, split (keys transposed per head), or both ways."""
    stored = {}
    for name, values in tensors.items():
        if ".experts." in name:
            continue
        if "kv_b_proj" in name:
            prefix = gguf_name(name.partition("self_attn")[0])
            heads = values.reshape(3, 12, 8)
            if split:
                stored[f"{prefix}attn_k_b.weight"] = heads[:, :5].transpose(0, 2, 1)
                stored[f"{prefix}attn_v_b.weight"] = heads[:, 5:]
            if whole:
                stored[f"{prefix}attn_kv_b.weight"] = values
            continue
        stored[gguf_name(name)] = values
    for part in ("gate", "up", "down"):
        stack = [tensors[f"model.layers.1.mlp.experts.{i}.{part}_proj.weight"] for i in range(6)]
        stored[f"blk.1.ffn_{part}_exps.weight"] = np.stack(stack)
    return stored


@pytest.mark.parametrize(("split", "whole"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("q_lora_rank", [0, 6])
def test_deepseek(split: bool, whole: bool, q_lora_rank: int, tmp_path: Path) -> None:
    tensors = deepseek_tensors(q_lora_rank=q_lora_rank, bias=True)
    metadata = deepseek_metadata(attention__q_lora_rank=q_lora_rank or None)
    stored = deepseek_to_gguf(tensors, split=split, whole=whole)
    checkpoint = opened(tmp_path, metadata, stored)
    assert_same_tensors(checkpoint, tensors)
    expected = DEEPSEEK_CONFIG | {
        "model_type": "deepseek_v3", "n_group": 3, "topk_group": 2, "topk_method": "noaux_tc",
        "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
        "q_lora_rank": q_lora_rank or None, "rope_theta": 10000.0, "rms_norm_eps": 1e-06,
    }  # fmt: skip
    assert {key: checkpoint.config[key] for key in expected} == expected
    assert "rope_scaling" not in checkpoint.config
    checkpoint.close()


def test_deepseek_v2_of_an_old_file(tmp_path: Path) -> None:
    """No gating function, no group keys, per-head lengths under the plain names."""
    metadata = deepseek_metadata(
        expert_gating_func=None, expert_group_count=None, expert_group_used_count=None,
        expert_weights_norm=None, expert_weights_scale=None, attention__key_length_mla=None,
        attention__value_length_mla=None, attention__key_length=9, attention__value_length=7,
        attention__head_count_kv=3,
        rope__scaling__type="yarn", rope__scaling__factor=40.0,
        rope__scaling__original_context_length=64, rope__scaling__yarn_log_multiplier=0.0707,
    )  # fmt: skip
    tensors = deepseek_tensors(q_lora_rank=0, bias=False)
    stored = deepseek_to_gguf(tensors, split=False, whole=True)
    checkpoint = opened(tmp_path, metadata, stored)
    assert_same_tensors(checkpoint, tensors)
    expected = DEEPSEEK_CONFIG | {
        "model_type": "deepseek_v2", "n_group": 1, "topk_group": 1, "topk_method": "greedy",
        "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 64,
            "mscale": 0.707, "mscale_all_dim": 0.707,
        },
    }  # fmt: skip
    assert {key: checkpoint.config[key] for key in expected} == expected


def test_deepseek_v3_without_groups_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = deepseek_metadata(expert_group_count=None, expert_group_used_count=None)
    stored = deepseek_to_gguf(
        deepseek_tensors(q_lora_rank=0, bias=True), split=True, whole=False
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        checkpoint = opened(tmp_path, metadata, stored)
    assert checkpoint.config["n_group"] == 1
    assert "event=no_expert_groups" in caplog.text


def llama3_divisors(rotary_dim: int, theta: float) -> F32:
    """The converter's loop, for factor 8, bands 1 and 4, original context 8192."""
    divisors = []
    for i in range(0, rotary_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / rotary_dim)
        smooth = (8192 / wavelength - 1) / 3
        if wavelength < 8192 / 4:
            divisors.append(1.0)
        elif wavelength > 8192:
            divisors.append(8.0)
        else:
            divisors.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(divisors, dtype=np.float32)


def test_llama3_scaling_is_recognised(tmp_path: Path) -> None:
    tensors = to_gguf(dense_tensors(biases=False, norms=False, tied=True), "llama")
    changes = {"attention__key_length": 128, "attention__value_length": 128,
               "rope__dimension_count": 128}  # fmt: skip
    for name in ("blk.0.attn_q", "blk.1.attn_q", "blk.0.attn_k", "blk.1.attn_k"):
        tensors[f"{name}.weight"] = np.zeros((512 if "q" in name[-1] else 256, 16), np.float32)
    tensors["rope_freqs.weight"] = llama3_divisors(128, 500000.0)
    checkpoint = opened(tmp_path, dense_metadata("llama", **changes), tensors)
    assert checkpoint.config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    assert "rope_freqs.weight" not in checkpoint.names()
    tensors["rope_freqs.weight"][3] = 1.5
    with pytest.raises(BadModel, match="fits no llama3 scaling"):
        opened(tmp_path, dense_metadata("llama", **changes), tensors)
    tensors["rope_freqs.weight"] = np.ones(64, np.float32)
    assert "rope_scaling" not in opened(
        tmp_path, dense_metadata("llama", **changes), tensors
    ).config  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, None),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 1.0}, None),
        (
            {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        (
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 32,
                "rope__scaling__yarn_beta_fast": 16.0,
            },
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 16.0,
            },
        ),
    ],
)
def test_rope_scaling(changes: dict[str, object], scaling: object, tmp_path: Path) -> None:
    tensors = to_gguf(dense_tensors(biases=True, norms=False, tied=True), "qwen2")
    checkpoint = opened(tmp_path, dense_metadata("qwen2", **changes), tensors)
    assert checkpoint.config.get("rope_scaling") == scaling


BAD_METADATA: dict[str, tuple[dict[str, object], str]] = {
    "no layers": ({"block_count": None}, r"llama\.block_count is None"),
    "zero heads": ({"attention.head_count": 0}, "head_count is 0"),
    "huge width": ({"embedding_length": (1 << 32) - 1}, "embedding_length is 4294967295"),
    "layers a string": ({"block_count": "2"}, "block_count is '2'"),
    "layers a bool": ({"block_count": True}, "block_count is True"),
    "eps NaN": ({"attention.layer_norm_rms_epsilon": math.nan}, "finite number"),
    "heads per layer": ({"attention.head_count_kv": [2, 1]}, "the same for every layer"),
    "partial rotation": ({"rope.dimension_count": 4}, "equal the head's 6"),
    "other value length": ({"attention.value_length": 8}, "equal the head's 6"),
    "longrope": (
        {"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}, "none, linear or yarn"),
    "sliding window": ({"attention.sliding_window": 64}, "sliding_window is 64"),
    "experts": ({"expert_count": 8}, "expert_count is 8"),
    "logit scale": ({"logit_scale": 0.5}, "logit_scale is 0.5"),
    "attention factor": ({"rope.scaling.yarn_attn_factor": 2.0}, "yarn_attn_factor is 2.0"),
    "not causal": ({"attention.causal": False}, "causal is False"),
    "another vocabulary size": ({"vocab_size": 12}, "equal the 11 rows"),
    "only draft layers": ({"nextn_predict_layers": 2}, "smaller than block_count"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_METADATA)
def test_bad_metadata(case: str, tmp_path: Path) -> None:
    changes, message = BAD_METADATA[case]
    tensors = to_gguf(dense_tensors(biases=False, norms=False, tied=True), "llama")
    with pytest.raises(BadModel, match=message):
        opened(tmp_path, dense_metadata("llama", **changes), tensors)


def test_unsupported_architectures(tmp_path: Path) -> None:
    tensors = to_gguf(dense_tensors(biases=False, norms=False, tied=True), "qwen2")
    with pytest.raises(BadModel, match="'gemma3' is not supported; supported: llama"):
        opened(tmp_path, dense_metadata("gemma3"), tensors)
    with pytest.raises(BadModel, match=r"general\.architecture is None"):
        opened(tmp_path, {}, tensors)


def test_unknown_keys_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    tensors = to_gguf(dense_tensors(biases=False, norms=False, tied=True), "llama")
    with caplog.at_level(logging.WARNING):
        opened(tmp_path, dense_metadata("llama", some__new_key=3), tensors)
    assert caplog.text.count("llama.some.new_key") == 1
    assert caplog.text.count("event=") == 1


BAD_TOKENIZER: dict[str, tuple[dict[str, object], str]] = {
    "no tokens": ({"tokens": []}, "list the tokens"),
    "tokens are numbers": ({"tokens": [1, 2]}, "array of strings"),
    "more tokens than rows": (
        {"tokens": ["t"] * 12, "token_type": [1] * 12}, "12 tokens but token_embd"),
    "types of another length": ({"token_type": [1]}, "has 1 items for 11 tokens"),
    "scores of another length": ({"scores": [0.5]}, "has 1 items for 11 tokens"),
    "id outside": ({"padding_token_id": 11}, "below the 11 tokens"),
    "model a number": ({"model": 3}, "be a string"),
    "flag a number": ({"add_bos_token": 1}, "be a bool"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TOKENIZER)
def test_bad_tokenizer(case: str, tmp_path: Path) -> None:
    changes, message = BAD_TOKENIZER[case]
    tensors = to_gguf(dense_tensors(biases=False, norms=False, tied=True), "llama")
    metadata = dense_metadata("llama") | {f"tokenizer.ggml.{k}": v for k, v in changes.items()}
    with pytest.raises(BadModel, match=message):
        _ = opened(tmp_path, metadata, tensors).tokenizer_source


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blk.0.attn_sinks.weight", (4,), "not known for architecture llama"),
        ("something.weight", (4,), "not known"),
        ("blk.0.ffn_gate_exps.weight", (2, 4, 4), "not known"),
        ("blk.0.attn_q.weight", (25, 16), "no multiple of twice its 4 heads"),
        ("token_embd.weight", (11,), "no matrix token_embd"),
        ("rope_freqs.weight", (1, 3), "one dimension"),
        ("rope_freqs.weight", (4,), "half as many"),
    ],
)
def test_bad_tensors(name: str, shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    tensors = to_gguf(dense_tensors(biases=False, norms=False, tied=True), "llama")
    tensors[name] = np.full(shape, 0.5, np.float32)
    with pytest.raises(BadModel, match=message):
        opened(tmp_path, dense_metadata("llama"), tensors)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blk.0.attn_k_b.weight", (3, 7, 5), "do not fit"),
        ("blk.0.attn_k_b.weight", (24, 5), "do not fit"),
        ("blk.0.attn_k_b.weight", None, "must come together"),
        ("blk.1.ffn_up_exps.weight", (60, 16), "must be"),
    ],
)
def test_bad_deepseek_tensors(
    name: str, shape: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    stored = deepseek_to_gguf(deepseek_tensors(q_lora_rank=0, bias=True), split=True, whole=False)
    del stored[name]
    if shape is not None:
        stored[name] = np.zeros(shape, np.float32)
    with pytest.raises(BadModel, match=message):
        opened(tmp_path, deepseek_metadata(), stored)


def split_files(tmp_path: Path, *, second_tensors: int, count: int = 2) -> Path:
    """A qwen2 model in two parts, as llama.cpp's gguf-split writes them."""
    stored = list(to_gguf(dense_tensors(biases=True, norms=False, tied=True), "qwen2").items())

    def keys(number: int) -> list[bytes]:
        return [
            make.entry("split.no", make.U16, make.typed(make.U16, number)),
            make.entry("split.count", make.U16, make.typed(make.U16, count)),
            make.entry("split.tensors.count", make.I32, make.typed(make.I32, len(stored))),
        ]

    first = make.parts_of(dense_metadata("qwen2"), dict(stored[:9]))
    first.metadata += keys(0)
    second = make.parts_of({}, dict(stored[9 : 9 + second_tensors]))
    second.metadata += keys(1)
    make.write(tmp_path / "big-Q4_K-00002-of-00002.gguf", second)
    return make.write(tmp_path / "big-Q4_K-00001-of-00002.gguf", first)


def test_split_files(tmp_path: Path) -> None:
    path = split_files(tmp_path, second_tensors=100)
    checkpoint = open_checkpoint(path)
    assert_same_tensors(checkpoint, dense_tensors(biases=True, norms=False, tied=True))
    assert checkpoint.name == "big"
    checkpoint.close()
    open_checkpoint(tmp_path).close()  # the folder stands for its only model
    with pytest.raises(BadModel, match=r"general\.architecture"):
        open_checkpoint(tmp_path / "big-Q4_K-00002-of-00002.gguf")


def test_bad_splits(tmp_path: Path) -> None:
    path = split_files(tmp_path, second_tensors=3)
    with pytest.raises(BadModel, match=r"its parts hold \d+ tensors but should hold"):
        open_checkpoint(path)
    renamed = path.rename(tmp_path / "renamed.gguf")
    with pytest.raises(BadModel, match="is part 1 of 2; name the first part"):
        open_checkpoint(renamed)
    path = split_files(tmp_path, second_tensors=100)
    (tmp_path / "big-Q4_K-00002-of-00002.gguf").unlink()
    with pytest.raises(BadModel, match=r"00002-of-00002\.gguf.*No such file"):
        open_checkpoint(path)


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    tensors = to_gguf(dense_tensors(biases=True, norms=False, tied=True), "qwen2")
    first = opened(tmp_path, dense_metadata("qwen2"), tensors).fingerprint
    assert opened(tmp_path, dense_metadata("qwen2"), tensors).fingerprint == first
    tensors["output_norm.weight"][0] += 1
    assert opened(tmp_path, dense_metadata("qwen2"), tensors).fingerprint != first
