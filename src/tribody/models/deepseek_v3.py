"""DeepSeek-V2 and V3 (R1, V3.1): multi-head latent attention and a mixture of experts.

Generated tokens attend in the absorbed form (over latents), prompt tokens in the expanded form
(keys and values rebuilt per head); both read the same latent pages.  The router, the SwiGLU
product, the residual stream and the head are float32, where the two official scripts differ.
Source: DeepSeek-V2 and V3 papers, section 2.1; transformers deepseek_v2, deepseek_v3; parity test:
tests/parity.  The multi-token-prediction layers are left to `deepseek_mtp`.
"""

from __future__ import annotations

import numpy as np

from tribody.memory.kv_store import KVStore, latent_layout
from tribody.models import vocabulary
from tribody.models.config import Experts, Latent, ModelConfig
from tribody.models.rope import RopeTable
from tribody.models.step_input import Drafter, StepInput
from tribody.models.vocabulary import Vocabulary
from tribody.models.weights import Shapes, WeightReader
from tribody.ops.composed import latent_layers
from tribody.ops.layers import DenseMLP, LatentLayer, LatentSpec, SparseMLP, StepRows
from tribody.ops.scratch import Scratch
from tribody.ops.table import F32, I64, Matrix, Ops


def _attention(config: ModelConfig) -> Latent:
    assert isinstance(config.attention, Latent)
    return config.attention


def _is_sparse(config: ModelConfig, index: int) -> bool:
    return config.experts is not None and index >= config.experts.first_k_dense_replace


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Every tensor that this family reads, with its shape."""
    yield from vocabulary.tensor_shapes(config)
    for index in range(config.num_hidden_layers):
        yield from layer_shapes(config, index)


def layer_shapes(config: ModelConfig, index: int) -> Shapes:
    """The tensors of one decoder layer."""
    layer, hidden = f"model.layers.{index}", config.hidden_size
    yield f"{layer}.input_layernorm.weight", (hidden,)
    yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield from _attention_shapes(f"{layer}.self_attn", _attention(config), hidden)
    if config.experts is not None and _is_sparse(config, index):
        yield from _expert_shapes(f"{layer}.mlp", config.experts, hidden)
    else:
        yield from _mlp_shapes(f"{layer}.mlp", config.intermediate_size, hidden)


def _attention_shapes(prefix: str, latent: Latent, hidden: int) -> Shapes:
    heads, nope, rank = latent.num_attention_heads, latent.qk_nope_head_dim, latent.kv_lora_rank
    q_rows = heads * (nope + latent.qk_rope_head_dim)
    if latent.q_lora_rank:
        yield f"{prefix}.q_a_proj.weight", (latent.q_lora_rank, hidden)
        yield f"{prefix}.q_a_layernorm.weight", (latent.q_lora_rank,)
        yield f"{prefix}.q_b_proj.weight", (q_rows, latent.q_lora_rank)
    else:
        yield f"{prefix}.q_proj.weight", (q_rows, hidden)
    yield f"{prefix}.kv_a_proj_with_mqa.weight", (rank + latent.qk_rope_head_dim, hidden)
    yield f"{prefix}.kv_a_layernorm.weight", (rank,)
    yield f"{prefix}.kv_b_proj.weight", (heads * (nope + latent.v_head_dim), rank)
    yield f"{prefix}.o_proj.weight", (hidden, heads * latent.v_head_dim)


def _mlp_shapes(prefix: str, inner: int, hidden: int) -> Shapes:
    yield f"{prefix}.gate_proj.weight", (inner, hidden)
    yield f"{prefix}.up_proj.weight", (inner, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, inner)


def _expert_shapes(prefix: str, experts: Experts, hidden: int) -> Shapes:
    yield f"{prefix}.gate.weight", (experts.n_routed_experts, hidden)
    if experts.correction_bias:
        yield f"{prefix}.gate.e_score_correction_bias", (experts.n_routed_experts,)
    for expert in range(experts.n_routed_experts):
        yield from _mlp_shapes(f"{prefix}.experts.{expert}", experts.moe_intermediate_size, hidden)
    if experts.n_shared_experts:
        inner = experts.n_shared_experts * experts.moe_intermediate_size
        yield from _mlp_shapes(f"{prefix}.shared_experts", inner, hidden)


def skipped_tensors(config: ModelConfig) -> tuple[str, ...]:
    """The multi-token-prediction layers (numbered after the last layer), which hold copies of the
    embedding and the head besides their own weights, and what every family skips."""
    first = config.num_hidden_layers
    mtp = [rf"^model\.layers\.{first + i}\." for i in range(config.num_mtp_layers)]
    return (*mtp, *vocabulary.skipped_tensors(config))


def _read_mlp(weights: WeightReader, prefix: str) -> tuple[Matrix, Matrix]:
    gate_up = weights.matrix(f"{prefix}.gate_proj.weight", f"{prefix}.up_proj.weight")
    return gate_up, weights.matrix(f"{prefix}.down_proj.weight")


def _read_sparse(experts: Experts, weights: WeightReader, prefix: str) -> SparseMLP:
    bias = None
    if experts.correction_bias:
        bias = weights.vector(f"{prefix}.gate.e_score_correction_bias")
    names = [f"{prefix}.experts.{i}" for i in range(experts.n_routed_experts)]
    gate_up = weights.stack([(f"{n}.gate_proj.weight", f"{n}.up_proj.weight") for n in names])
    down = weights.stack([(f"{n}.down_proj.weight",) for n in names])
    shared = None
    if experts.n_shared_experts:
        shared = _read_mlp(weights, f"{prefix}.shared_experts")
    gate = weights.matrix(f"{prefix}.gate.weight", weight_format="float32")
    return SparseMLP(gate, bias, (gate_up, down), shared)


def read_layer(config: ModelConfig, weights: WeightReader, index: int) -> LatentLayer:
    """One decoder layer's weights, read and packed."""
    layer = f"model.layers.{index}"
    latent, prefix = _attention(config), f"{layer}.self_attn"
    q_first = "q_a_proj" if latent.q_lora_rank else "q_proj"
    q_b = None
    if latent.q_lora_rank:
        norm = weights.vector(f"{prefix}.q_a_layernorm.weight")
        q_b = (norm, weights.matrix(f"{prefix}.q_b_proj.weight"))
    kv_b = weights.matrix(f"{prefix}.kv_b_proj.weight")
    nope = latent.qk_nope_head_dim

    def by_head(values: F32) -> F32:
        return values.reshape(latent.num_attention_heads, -1, latent.kv_lora_rank)

    mlp: DenseMLP | SparseMLP
    if config.experts is not None and _is_sparse(config, index):
        mlp = _read_sparse(config.experts, weights, f"{layer}.mlp")
    else:
        mlp = DenseMLP(*_read_mlp(weights, f"{layer}.mlp"))
    return LatentLayer(
        input_layernorm=weights.vector(f"{layer}.input_layernorm.weight"),
        a_proj=weights.matrix(f"{prefix}.{q_first}.weight", f"{prefix}.kv_a_proj_with_mqa.weight"),
        q_b=q_b,
        kv_a_layernorm=weights.vector(f"{prefix}.kv_a_layernorm.weight"),
        kv_b_proj=kv_b,
        w_uk=weights.derived(
            f"{prefix}.w_uk", kv_b, lambda values: by_head(values)[:, :nope].transpose(0, 2, 1)
        ),
        w_uv=weights.derived(f"{prefix}.w_uv", kv_b, lambda values: by_head(values)[:, nope:]),
        o_proj=weights.matrix(f"{prefix}.o_proj.weight"),
        post_attention_layernorm=weights.vector(f"{layer}.post_attention_layernorm.weight"),
        mlp=mlp,
    )


def spec_of(config: ModelConfig) -> LatentSpec:
    """The numbers that all layers share."""
    latent = _attention(config)
    return LatentSpec(
        hidden_size=config.hidden_size,
        num_heads=latent.num_attention_heads,
        nope=latent.qk_nope_head_dim,
        rope=latent.qk_rope_head_dim,
        rank=latent.kv_lora_rank,
        value_dim=latent.v_head_dim,
        q_lora_rank=latent.q_lora_rank,
        rope_interleave=latent.rope_interleave,
        eps=config.rms_norm_eps,
        scale=config.softmax_scale,
        router=None if config.experts is None else config.experts.router,
    )


class DeepseekV3:
    """A loaded DeepSeek-V2 or V3.

    `hidden` (T, hidden_size) is the last step's residual stream before the final norm: a view that
    the next step overwrites.
    """

    def __init__(self, config: ModelConfig, weights: WeightReader) -> None:
        latent = _attention(config)
        self.config = config
        self.drafter: Drafter | None = None
        self.ops: Ops = weights.ops
        self.kv_layout = latent_layout(
            config.num_hidden_layers, latent.kv_lora_rank, latent.qk_rope_head_dim
        )
        self.rope = RopeTable(config.rope)
        self.scratch = Scratch()
        self.hidden: F32 = np.empty((0, config.hidden_size), np.float32)
        self.vocabulary = Vocabulary(config, weights)
        self.layers = [read_layer(config, weights, i) for i in range(config.num_hidden_layers)]
        self._stack = latent_layers(weights.ops, self.layers, spec_of(config))
        self.weights = weights.weights

    def forward(self, step: StepInput, kv: KVStore) -> F32:
        x = self.embed(step)
        self.run_layers(range(len(self.layers)), x, step, kv)
        return self.logits(x, step)

    def embed(self, step: StepInput) -> F32:
        self.hidden = self.vocabulary.embed(step, self.scratch)
        return self.hidden

    def normed(self, x: F32, rows: I64) -> F32:
        return self.vocabulary.normed(x, rows)

    def logits(self, x: F32, step: StepInput) -> F32:
        return self.vocabulary.logits(x, step, self.scratch)

    def run_layers(self, layers: range, x: F32, step: StepInput, kv: KVStore) -> None:
        self._stack.run(layers, x, self.step_rows(step), kv.arrays)

    def step_rows(self, step: StepInput) -> StepRows:
        """What layers see of a step."""
        return step.rows(self.rope.rows(step.positions))
