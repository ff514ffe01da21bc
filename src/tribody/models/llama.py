"""Llama, Qwen2 and Qwen3: grouped-query attention and a gated MLP.

The three differ in biases (Qwen2: q, k, v) and in per-head norms of q and k (Qwen3); the config
says which.  Source: the models' transformers definitions; parity test: tests/parity.
"""

from __future__ import annotations

from tribody.memory.kv_store import KVStore, grouped_query_layout
from tribody.models import vocabulary
from tribody.models.config import GroupedQuery, ModelConfig
from tribody.models.rope import RopeTable
from tribody.models.step_input import Drafter, StepInput
from tribody.models.vocabulary import Vocabulary
from tribody.models.weights import Shapes, WeightReader
from tribody.ops.composed import grouped_query_layers
from tribody.ops.layers import DenseMLP, GroupedQueryLayer, GroupedQuerySpec
from tribody.ops.scratch import Scratch
from tribody.ops.table import F32, I64

QKV = ("q_proj", "k_proj", "v_proj")


def _attention(config: ModelConfig) -> GroupedQuery:
    assert isinstance(config.attention, GroupedQuery)
    return config.attention


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Every tensor that this family reads, with its shape."""
    attention, hidden, inner = _attention(config), config.hidden_size, config.intermediate_size
    q_rows = attention.num_attention_heads * attention.head_dim
    kv_rows = attention.num_key_value_heads * attention.head_dim
    yield from vocabulary.tensor_shapes(config)
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        for name, rows in zip(QKV, (q_rows, kv_rows, kv_rows), strict=True):
            yield f"{layer}.self_attn.{name}.weight", (rows, hidden)
            if attention.qkv_bias:
                yield f"{layer}.self_attn.{name}.bias", (rows,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, q_rows)
        if attention.output_bias:
            yield f"{layer}.self_attn.o_proj.bias", (hidden,)
        if attention.qk_norm:
            yield f"{layer}.self_attn.q_norm.weight", (attention.head_dim,)
            yield f"{layer}.self_attn.k_norm.weight", (attention.head_dim,)
        yield f"{layer}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.up_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, inner)


def skipped_tensors(config: ModelConfig) -> tuple[str, ...]:
    """Nothing beyond what every family skips."""
    return vocabulary.skipped_tensors(config)


def _read_layer(config: ModelConfig, weights: WeightReader, index: int) -> GroupedQueryLayer:
    attention, layer = _attention(config), f"model.layers.{index}"
    heads = [f"{layer}.self_attn.{name}" for name in QKV]
    qk_norm = None
    if attention.qk_norm:
        q_norm = weights.vector(f"{layer}.self_attn.q_norm.weight")
        k_norm = weights.vector(f"{layer}.self_attn.k_norm.weight")
        qk_norm = (q_norm, k_norm)
    output = f"{layer}.self_attn.o_proj"
    return GroupedQueryLayer(
        input_layernorm=weights.vector(f"{layer}.input_layernorm.weight"),
        qkv_proj=weights.matrix(*(f"{name}.weight" for name in heads)),
        qkv_bias=weights.vector(*(f"{n}.bias" for n in heads)) if attention.qkv_bias else None,
        qk_norm=qk_norm,
        o_proj=weights.matrix(f"{output}.weight"),
        o_bias=weights.vector(f"{output}.bias") if attention.output_bias else None,
        post_attention_layernorm=weights.vector(f"{layer}.post_attention_layernorm.weight"),
        mlp=DenseMLP(
            weights.matrix(f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.up_proj.weight"),
            weights.matrix(f"{layer}.mlp.down_proj.weight"),
        ),
    )


class Llama:
    """A loaded Llama, Qwen2 or Qwen3."""

    def __init__(self, config: ModelConfig, weights: WeightReader) -> None:
        attention = _attention(config)
        self.config = config
        self.drafter: Drafter | None = None
        spec = GroupedQuerySpec(
            hidden_size=config.hidden_size,
            num_heads=attention.num_attention_heads,
            num_kv_heads=attention.num_key_value_heads,
            head_dim=attention.head_dim,
            eps=config.rms_norm_eps,
            scale=config.softmax_scale,
        )
        self.kv_layout = grouped_query_layout(
            config.num_hidden_layers, spec.num_kv_heads, spec.head_dim
        )
        self._rope = RopeTable(config.rope)
        self._scratch = Scratch()
        self.vocabulary = Vocabulary(config, weights)
        self.layers = [_read_layer(config, weights, i) for i in range(config.num_hidden_layers)]
        self._stack = grouped_query_layers(weights.ops, self.layers, spec)
        self.weights = weights.weights

    def forward(self, step: StepInput, kv: KVStore) -> F32:
        x = self.embed(step)
        self.run_layers(range(len(self.layers)), x, step, kv)
        return self.logits(x, step)

    def embed(self, step: StepInput) -> F32:
        return self.vocabulary.embed(step, self._scratch)

    def normed(self, x: F32, rows: I64) -> F32:
        return self.vocabulary.normed(x, rows)

    def logits(self, x: F32, step: StepInput) -> F32:
        return self.vocabulary.logits(x, step, self._scratch)

    def run_layers(self, layers: range, x: F32, step: StepInput, kv: KVStore) -> None:
        self._stack.run(layers, x, step.rows(self._rope.rows(step.positions)), kv.arrays)
