"""config.json: both styles of rotary parameters, refusals by name, unknown keys, bad values."""

import math

import pytest

from tests.models.tiny import CONFIGS, LLAMA3, YARN
from tribody.core.errors import BadModel
from tribody.models.config import GroupedQuery, Latent, read_config


def changed(name: str, **more: object) -> dict[str, object]:
    return CONFIGS[name] | more


def test_grouped_query_fields() -> None:
    config = read_config(changed("qwen3"))
    assert config.attention == GroupedQuery(4, 2, 24, False, False, True)
    assert config.softmax_scale == 24**-0.5
    assert config.unknown_keys == ()
    qwen2 = read_config(changed("qwen2")).attention
    assert isinstance(qwen2, GroupedQuery)
    assert (qwen2.qkv_bias, qwen2.output_bias) == (True, False)


def test_head_dim_follows_from_the_heads_when_it_is_absent() -> None:
    raw = changed("llama")
    del raw["head_dim"]
    attention = read_config(raw).attention
    assert isinstance(attention, GroupedQuery)
    assert attention.head_dim == 16
    with pytest.raises(BadModel, match="num_attention_heads = 7"):
        read_config(raw | {"num_attention_heads": 7, "num_key_value_heads": 7})


def test_deepseek_fields_and_the_published_softmax_scale() -> None:
    """models.md: scale = 192^-0.5 * 1.873854 = 0.135234 for V3's own numbers."""
    published = {
        "rope_scaling": YARN | {"factor": 40, "original_max_position_embeddings": 4096},
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "max_position_embeddings": 163840,
    }
    config = read_config(changed("v3-q-lora", **published))
    assert config.softmax_scale == pytest.approx(0.135234, abs=5e-7)
    assert config.rope.attention_factor == 1.0
    assert isinstance(config.attention, Latent)
    assert config.attention.q_lora_rank == 24
    assert config.experts is not None
    assert config.experts.router.group_score == "top2"
    lite = read_config(
        changed("v2-lite", rope_scaling=YARN | {"factor": 40, "mscale_all_dim": 0.707})
    )
    assert lite.rope.softmax_factor == pytest.approx(1.26080**2, abs=1e-4)


@pytest.mark.parametrize("scaling", [YARN, LLAMA3, {"type": "linear", "factor": 2.0}])
def test_transformers_4_and_5_write_the_same_rope(scaling: dict[str, object]) -> None:
    old = changed("llama", rope_scaling=scaling, rope_theta=5e5)
    new = changed("llama")
    del new["rope_theta"]
    renamed = dict(scaling)
    renamed["rope_type"] = renamed.pop("type", None) or renamed["rope_type"]
    new["rope_parameters"] = renamed | {"rope_theta": 5e5}
    assert read_config(old).rope == read_config(new).rope


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama", "model_type", "mistral"),
        ("llama", "hidden_act", "gelu"),
        ("llama", "mlp_bias", True),
        ("llama", "sliding_window", 4096),
        ("llama", "partial_rotary_factor", 0.5),
        ("llama", "final_logit_softcapping", 30.0),
        ("llama", "clip_qkv", 8.0),
        ("llama", "embedding_multiplier", 12.0),
        ("qwen2", "use_sliding_window", True),
        ("qwen2", "layer_types", ["full_attention", "sliding_attention", "full_attention"]),
        ("v3-q-lora", "attention_bias", True),
        ("v3-q-lora", "scoring_func", "softmax"),
        ("v3-q-lora", "topk_method", "greedy"),
        ("v3-q-lora", "moe_layer_freq", 2),
        ("v3-q-lora", "index_topk", 2048),
        ("v3-q-lora", "num_key_value_heads", 2),
        ("v2-lite", "topk_method", "noaux_tc"),
        ("v2-lite", "norm_topk_prob", True),
        ("llama", "rope_scaling", {"type": "dynamic", "factor": 2.0}),
        ("llama", "rope_scaling", {"rope_type": "longrope", "factor": 2.0}),
        ("llama", "rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.25}),
    ],
)
def test_foreign_mathematics_is_refused_by_name(name: str, key: str, value: object) -> None:
    last = list(value)[-1] if isinstance(value, dict) and "partial" in str(value) else key
    inner = "type" if key == "rope_scaling" else last
    with pytest.raises(BadModel, match=inner):
        read_config(changed(name, **{key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", "64"),
        ("hidden_size", 0),
        ("hidden_size", -3),
        ("hidden_size", 1 << 40),
        ("num_hidden_layers", True),
        ("rms_norm_eps", float("nan")),
        ("max_position_embeddings", 1 << 30),
        ("num_key_value_heads", 3),
        ("rope_scaling", [1]),
        ("rope_theta", -1.0),
        ("tie_word_embeddings", "yes"),
        ("eos_token_id", [1, "x"]),
    ],
)
def test_bad_values_are_named(key: str, value: object) -> None:
    with pytest.raises(BadModel, match=key):
        read_config(changed("llama", **{key: value}))


@pytest.mark.parametrize(
    "more",
    [
        {"n_group": 3},
        {"topk_group": 5},
        {"num_experts_per_tok": 9},
        {"n_group": 16, "topk_group": 8},
    ],
)
def test_impossible_groups_are_refused(more: dict[str, object]) -> None:
    with pytest.raises(BadModel, match=r"cannot be chosen|not a multiple|groups of one"):
        read_config(changed("v3-q-lora", **more))


def test_neutral_values_pass_and_unknown_keys_are_collected() -> None:
    config = read_config(
        changed(
            "qwen2",
            mlp_bias=False,
            sliding_window=4096,
            max_window_layers=28,
            use_mrope=False,
            partial_rotary_factor=1.0,
            layer_types=["full_attention"] * 3,
            invented_key=1,
            rope_scaling={"type": "linear", "factor": 2.0, "also_invented": 3},
            torch_dtype="bfloat16",
        )
    )
    assert config.unknown_keys == ("invented_key", "rope_scaling.also_invented")


def test_end_tokens_may_be_one_or_many() -> None:
    assert read_config(changed("llama", eos_token_id=2)).eos_token_ids == (2,)
    assert read_config(changed("llama", eos_token_id=[2, 5])).eos_token_ids == (2, 5)
    assert math.isclose(read_config(changed("llama")).rms_norm_eps, 1e-6)
