"""What a model is: frozen records built from a config.json, one function per family.

Nothing is recognised by its size: `model_type` names the family and every number is read from its
key.  Keys that change the mathematics in a way that is not implemented are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tribody.core.errors import BadModel
from tribody.models.config_reader import ConfigReader
from tribody.models.rope import RopeConfig, read_rope
from tribody.ops.table import RouterSpec

LARGEST_POSITION = 1 << 24  # positions are exact in float32 below this; the angles need that


@dataclass(frozen=True, slots=True)
class GroupedQuery:
    """Attention whose keys and values are shared by groups of heads (Llama, Qwen)."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qkv_bias: bool
    output_bias: bool
    qk_norm: bool


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek).  q_lora_rank 0 = queries are projected directly."""

    num_attention_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    rope_interleave: bool


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture of experts: layers [first_k_dense_replace, num_hidden_layers) use it."""

    n_routed_experts: int
    n_shared_experts: int
    moe_intermediate_size: int
    first_k_dense_replace: int
    router: RouterSpec
    correction_bias: bool


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model.  `softmax_scale` already holds YaRN's factor.

    The `num_mtp_layers` are no part of the model's answers; the first can draft tokens.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention: GroupedQuery | Latent
    softmax_scale: float
    rope: RopeConfig
    experts: Experts | None
    num_mtp_layers: int
    eos_token_ids: tuple[int, ...]
    unknown_keys: tuple[str, ...]


def read_config(raw: Mapping[str, object]) -> ModelConfig:
    """The typed view of a config.json.

    Raises: BadModel naming the key, its value and what is supported.
    """
    model_type = raw.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise BadModel(
            f"config.json: model_type = {model_type!r} is not supported; "
            f"supported: {', '.join(sorted(FAMILIES))}"
        )
    reader = ConfigReader(raw)
    reader.refuse_foreign_mathematics()
    reader.only("hidden_act", ("silu", "swish"))  # two names of the same function
    return family(reader)


def _finish(
    config: ConfigReader,
    attention: GroupedQuery | Latent,
    rotary_dim: int,
    query_dim: int,
    experts: Experts | None = None,
) -> ModelConfig:
    """The fields that every family shares.  `query_dim` sets the softmax scale."""
    max_positions = config.integer("max_position_embeddings")
    if max_positions > LARGEST_POSITION:
        raise BadModel(
            f"config.json: max_position_embeddings = {max_positions} is over {LARGEST_POSITION}"
        )
    rope, unknown_rope = read_rope(config, rotary_dim, max_positions)
    scale = query_dim**-0.5
    if isinstance(attention, Latent):
        scale *= rope.softmax_factor
    layers = config.integer("num_hidden_layers")
    mtp_layers = config.integer("num_nextn_predict_layers", 0, minimum=0)
    return ModelConfig(
        model_type=str(config.get("model_type")),
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_hidden_layers=layers,
        max_position_embeddings=max_positions,
        rms_norm_eps=config.number("rms_norm_eps"),
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
        attention=attention,
        softmax_scale=scale,
        rope=rope,
        experts=experts,
        num_mtp_layers=config.integer("num_mtp_layers", mtp_layers, minimum=0),
        eos_token_ids=config.token_ids("eos_token_id"),
        unknown_keys=(*config.unknown(), *unknown_rope),
    )


def _grouped_query(
    config: ConfigReader, *, head_dim: int, bias: tuple[bool, bool], norm: bool
) -> GroupedQuery:
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise BadModel(
            f"config.json: num_attention_heads = {heads} is not a multiple of "
            f"num_key_value_heads = {kv_heads}"
        )
    return GroupedQuery(heads, kv_heads, head_dim, bias[0], bias[1], norm)


def _head_dim(config: ConfigReader) -> int:
    """`head_dim`, or hidden_size / num_attention_heads where the config does not state it."""
    heads, hidden = config.integer("num_attention_heads"), config.integer("hidden_size")
    if not config.has("head_dim") and hidden % heads:
        raise BadModel(
            f"config.json: hidden_size = {hidden} is not a multiple of "
            f"num_attention_heads = {heads}, and head_dim is not given"
        )
    return config.integer("head_dim", max(hidden // heads, 1))


def _refuse_sliding_window(config: ConfigReader) -> None:
    """Only full attention: a window in force, or a layer of another type, is refused by name."""
    config.only("use_sliding_window", (False,))
    if config.get("use_sliding_window") is None:
        config.only("sliding_window", ())
    config.get("sliding_window")  # unused while use_sliding_window is false
    layer_types = config.get("layer_types")
    if isinstance(layer_types, list):
        for layer_type in layer_types:
            if layer_type != "full_attention":
                raise BadModel(
                    f"config.json: layer_types holds {layer_type!r}; supported: full_attention"
                )


def _llama(config: ConfigReader) -> ModelConfig:
    _refuse_sliding_window(config)
    bias = config.flag("attention_bias", False)
    head_dim = _head_dim(config)
    attention = _grouped_query(config, head_dim=head_dim, bias=(bias, bias), norm=False)
    return _finish(config, attention, head_dim, head_dim)


def _qwen2(config: ConfigReader) -> ModelConfig:
    """Qwen2 has biases on q, k and v by definition; an attention_bias key says nothing."""
    _refuse_sliding_window(config)
    config.get("attention_bias")
    head_dim = _head_dim(config)
    attention = _grouped_query(config, head_dim=head_dim, bias=(True, False), norm=False)
    return _finish(config, attention, head_dim, head_dim)


def _qwen3(config: ConfigReader) -> ModelConfig:
    """Qwen3 normalises each head of q and k; its head_dim is not hidden_size / heads."""
    _refuse_sliding_window(config)
    bias = config.flag("attention_bias", False)
    head_dim = config.integer("head_dim")
    attention = _grouped_query(config, head_dim=head_dim, bias=(bias, bias), norm=True)
    return _finish(config, attention, head_dim, head_dim)


def _latent(config: ConfigReader) -> Latent:
    config.only("attention_bias", (False,))
    config.get("head_dim")  # transformers 5 writes qk_rope_head_dim here
    config.get("qk_head_dim")  # and the sum of the two here
    heads = config.integer("num_attention_heads")
    config.only("num_key_value_heads", (heads,))  # latent attention has no key-value groups
    return Latent(
        num_attention_heads=heads,
        q_lora_rank=config.integer("q_lora_rank", 0),
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_head_dim=config.integer("qk_nope_head_dim"),
        qk_rope_head_dim=config.integer("qk_rope_head_dim"),
        v_head_dim=config.integer("v_head_dim"),
        rope_interleave=config.flag("rope_interleave", True),
    )


def _experts(config: ConfigReader, router: RouterSpec, *, correction_bias: bool) -> Experts | None:
    """The mixture of experts, checked: groups divide the experts and hold enough of them."""
    config.only("moe_layer_freq", (1,))
    count = config.integer("n_routed_experts")
    config.only("num_local_experts", (count,))
    per_group = count // router.num_groups
    if count % router.num_groups:
        raise BadModel(
            f"config.json: n_routed_experts = {count} is not a multiple of "
            f"n_group = {router.num_groups}"
        )
    if router.top_groups > router.num_groups or router.top_k > router.top_groups * per_group:
        raise BadModel(
            f"config.json: num_experts_per_tok = {router.top_k} cannot be chosen from "
            f"topk_group = {router.top_groups} of {router.num_groups} groups of {per_group} experts"
        )
    if router.group_score == "top2" and router.num_groups > 1 and per_group < 2:
        raise BadModel(f"config.json: n_group = {router.num_groups} leaves groups of one expert")
    return Experts(
        n_routed_experts=count,
        n_shared_experts=config.integer("n_shared_experts", 0, minimum=0),
        moe_intermediate_size=config.integer("moe_intermediate_size"),
        first_k_dense_replace=config.integer("first_k_dense_replace", minimum=0),
        router=router,
        correction_bias=correction_bias,
    )


def _deepseek_v2(config: ConfigReader) -> ModelConfig:
    """Softmax gate; groups, when used, are scored by their best expert.

    norm_topk_prob is refused: the model's own script then drops routed_scaling_factor, while
    transformers ignores the key, and no published model sets it.
    """
    config.only("norm_topk_prob", (False,))
    config.only("scoring_func", ("softmax",))
    config.only("rope_interleave", (True,))
    method = config.choice("topk_method", ("greedy", "group_limited_greedy"), "greedy")
    grouped = method == "group_limited_greedy"
    groups = config.integer("n_group", None if grouped else 1)
    top_groups = config.integer("topk_group", None if grouped else 1)
    router = RouterSpec(
        top_k=config.integer("num_experts_per_tok"),
        num_groups=groups if grouped else 1,
        top_groups=top_groups if grouped else 1,
        scoring="softmax",
        group_score="max",
        normalize=False,
        scale=config.number("routed_scaling_factor"),
    )
    return _deepseek(config, _experts(config, router, correction_bias=False))


def _deepseek_v3(config: ConfigReader) -> ModelConfig:
    """Sigmoid gate with a correction bias; groups are scored by their two best experts."""
    config.only("scoring_func", ("sigmoid",))
    config.only("topk_method", ("noaux_tc",))
    router = RouterSpec(
        top_k=config.integer("num_experts_per_tok"),
        num_groups=config.integer("n_group"),
        top_groups=config.integer("topk_group"),
        scoring="sigmoid",
        group_score="top2",
        normalize=config.flag("norm_topk_prob", True),
        scale=config.number("routed_scaling_factor"),
    )
    return _deepseek(config, _experts(config, router, correction_bias=True))


def _deepseek(config: ConfigReader, experts: Experts | None) -> ModelConfig:
    attention = _latent(config)
    query_dim = attention.qk_nope_head_dim + attention.qk_rope_head_dim
    return _finish(config, attention, attention.qk_rope_head_dim, query_dim, experts)


FAMILIES: Mapping[str, Callable[[ConfigReader], ModelConfig]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
}
