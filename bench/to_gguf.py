"""A DeepSeek-V3 checkpoint as a GGUF file for llama.cpp, in F16.

    .venv-bench/bin/python bench/to_gguf.py FOLDER TOKENIZER.gguf TARGET.gguf

Tensors and keys are those that llama.cpp's own converter writes for its architecture "deepseek2":
attention in the absorbed form (kv_b_proj cut into attn_k_b, transposed, and attn_v_b, per head;
one key head of rank + rope values), the experts of a layer stacked, norms, router and correction
bias in float32.  One tensor is in memory at a time.  YaRN and multi-token prediction are refused:
dsv3-mini has neither.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from tribody.core.tokenizer_source import TokenizerSource
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.checkpoint_face import Checkpoint
from tribody.models.config import Experts, Latent, ModelConfig, read_config

F32 = NDArray[np.float32]

ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
}
PROJECTIONS = ("gate", "up", "down")


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the file; `read` makes it when its turn has come."""

    name: str
    shape: tuple[int, ...]
    is_float32: bool
    read: Callable[[], F32]

    @property
    def dtype(self) -> np.dtype[np.float32] | np.dtype[np.float16]:
        return np.dtype(np.float32) if self.is_float32 else np.dtype(np.float16)


def write_gguf(checkpoint: Checkpoint, tokenizer: TokenizerSource, target: Path) -> None:
    """`tokenizer`: of the GGUF file that the checkpoint's vocabulary was taken from."""
    config = read_config(checkpoint.config)
    plain = config.rope.kind == "default" and not config.num_mtp_layers
    if config.model_type != "deepseek_v3" or not plain:
        raise ValueError("only DeepSeek-V3 without YaRN and without MTP layers is converted")
    partial = target.with_name(target.name + ".part")
    writer = gguf.GGUFWriter(partial, "deepseek2")
    _add_shape(writer, checkpoint, config)
    _add_tokenizer(writer, tokenizer)
    parts = list(parts_of(checkpoint, config))
    for part in parts:
        nbytes = int(np.prod(part.shape)) * part.dtype.itemsize
        writer.add_tensor_info(part.name, part.shape, part.dtype, nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for part in parts:
        writer.write_tensor_data(np.ascontiguousarray(part.read(), part.dtype))
    writer.close()
    os.replace(partial, target)


def _add_shape(writer: gguf.GGUFWriter, checkpoint: Checkpoint, config: ModelConfig) -> None:
    latent, experts = _kinds(config)
    writer.add_name(checkpoint.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_rope_dimension_count(latent.qk_rope_head_dim)
    # Absorbed, the heads share one key of rank + rope values, of which rank are the value.
    writer.add_head_count(latent.num_attention_heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(latent.kv_lora_rank + latent.qk_rope_head_dim)
    writer.add_value_length(latent.kv_lora_rank)
    writer.add_key_length_mla(latent.qk_nope_head_dim + latent.qk_rope_head_dim)
    writer.add_value_length_mla(latent.v_head_dim)
    writer.add_kv_lora_rank(latent.kv_lora_rank)
    if latent.q_lora_rank:
        writer.add_q_lora_rank(latent.q_lora_rank)
    writer.add_leading_dense_block_count(experts.first_k_dense_replace)
    writer.add_expert_count(experts.n_routed_experts)
    writer.add_expert_used_count(experts.router.top_k)
    writer.add_expert_shared_count(experts.n_shared_experts)
    writer.add_expert_feed_forward_length(experts.moe_intermediate_size)
    writer.add_expert_group_count(experts.router.num_groups)
    writer.add_expert_group_used_count(experts.router.top_groups)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_scale(experts.router.scale)
    writer.add_expert_weights_norm(experts.router.normalize)


def _kinds(config: ModelConfig) -> tuple[Latent, Experts]:
    assert isinstance(config.attention, Latent)
    assert config.experts is not None
    return config.attention, config.experts


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: TokenizerSource) -> None:
    vocabulary = tokenizer.gguf_vocabulary
    assert vocabulary is not None
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.token_types)
    writer.add_token_merges(vocabulary.merges)
    for add, token_id in (
        (writer.add_bos_token_id, vocabulary.bos_token_id),
        (writer.add_eos_token_id, vocabulary.eos_token_id),
        (writer.add_unk_token_id, vocabulary.unknown_token_id),
        (writer.add_pad_token_id, vocabulary.padding_token_id),
    ):
        if token_id is not None:
            add(token_id)
    if vocabulary.add_bos_token is not None:
        writer.add_add_bos_token(vocabulary.add_bos_token)
    if vocabulary.add_eos_token is not None:
        writer.add_add_eos_token(vocabulary.add_eos_token)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def parts_of(checkpoint: Checkpoint, config: ModelConfig) -> Iterator[Part]:
    """Every tensor of the file, in its order."""
    _, experts = _kinds(config)

    def plain(name: str, source: str) -> Part:
        shape = checkpoint.shape(source)
        is_float32 = len(shape) == 1 or source.endswith("mlp.gate.weight")
        return Part(name, shape, is_float32, lambda: checkpoint.read(source))

    present = set(checkpoint.names())
    yield plain("token_embd.weight", "model.embed_tokens.weight")
    for index in range(config.num_hidden_layers):
        block, layer = f"blk.{index}", f"model.layers.{index}"
        for name, source in ATTENTION.items():
            if f"{layer}.{source}.weight" in present:
                yield plain(f"{block}.{name}.weight", f"{layer}.{source}.weight")
        yield from _split_kv(checkpoint, config, block, layer)
        if index < experts.first_k_dense_replace:
            for name in PROJECTIONS:
                yield plain(f"{block}.ffn_{name}.weight", f"{layer}.mlp.{name}_proj.weight")
            continue
        gate = f"{layer}.mlp.gate"
        yield plain(f"{block}.ffn_gate_inp.weight", f"{gate}.weight")
        yield plain(f"{block}.exp_probs_b.bias", f"{gate}.e_score_correction_bias")
        for name in PROJECTIONS:
            yield _stack(checkpoint, experts, block, layer, name)
            if experts.n_shared_experts:
                source = f"{layer}.mlp.shared_experts.{name}_proj.weight"
                yield plain(f"{block}.ffn_{name}_shexp.weight", source)
    yield plain("output_norm.weight", "model.norm.weight")
    if not config.tie_word_embeddings:
        yield plain("output.weight", "lm_head.weight")


def _split_kv(
    checkpoint: Checkpoint, config: ModelConfig, block: str, layer: str
) -> Iterator[Part]:
    latent, _ = _kinds(config)
    heads, nope, rank = latent.num_attention_heads, latent.qk_nope_head_dim, latent.kv_lora_rank

    def by_head() -> F32:
        weights = checkpoint.read(f"{layer}.self_attn.kv_b_proj.weight")
        return weights.reshape(heads, nope + latent.v_head_dim, rank)

    keys, values = (heads, rank, nope), (heads, latent.v_head_dim, rank)
    yield Part(f"{block}.attn_k_b.weight", keys, False, lambda: by_head()[:, :nope].swapaxes(1, 2))
    yield Part(f"{block}.attn_v_b.weight", values, False, lambda: by_head()[:, nope:])


def _stack(checkpoint: Checkpoint, experts: Experts, block: str, layer: str, name: str) -> Part:
    sources = [
        f"{layer}.mlp.experts.{expert}.{name}_proj.weight"
        for expert in range(experts.n_routed_experts)
    ]
    shape = (len(sources), *checkpoint.shape(sources[0]))

    def read() -> F32:
        return np.stack([checkpoint.read(source) for source in sources])

    return Part(f"{block}.ffn_{name}_exps.weight", shape, False, read)


def main(source: str, tokenizer: str, target: str) -> None:
    with (
        closing(open_checkpoint(Path(source))) as checkpoint,
        closing(open_checkpoint(Path(tokenizer))) as vocabulary,
    ):
        write_gguf(checkpoint, vocabulary.tokenizer_source, Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
