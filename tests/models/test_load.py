"""Loading: shapes against the config, missing and leftover tensors, formats, progress."""

import logging

import numpy as np
import pytest

from tests.models.five_ways import whole
from tests.models.tiny import CONFIGS, MemoryCheckpoint, tiny_checkpoint, tiny_tokens, weight
from tribody.core.errors import BadModel
from tribody.models.deepseek_v3 import DeepseekV3
from tribody.models.llama import Llama
from tribody.models.load import load_model
from tribody.ops import reference
from tribody.ops.layers import SparseMLP


def load(checkpoint: MemoryCheckpoint) -> object:
    return load_model(checkpoint, reference.OPS, "float32")


def test_a_wrong_shape_names_tensor_expected_and_found() -> None:
    checkpoint = tiny_checkpoint("llama")
    name = "model.layers.1.mlp.down_proj.weight"
    checkpoint.tensors[name] = np.zeros((64, 95), np.float32)
    with pytest.raises(BadModel, match=r"layers\.1\.mlp\.down_proj\.weight.*64, 95.*64, 96"):
        load(checkpoint)


def test_missing_tensors_are_named_without_listing_thousands() -> None:
    checkpoint = tiny_checkpoint("llama")
    del checkpoint.tensors["model.layers.2.self_attn.k_proj.weight"]
    with pytest.raises(BadModel, match=r"lacks model\.layers\.2\.self_attn\.k_proj\.weight$"):
        load(checkpoint)
    huge = MemoryCheckpoint(CONFIGS["llama"] | {"num_hidden_layers": 1 << 30}, checkpoint.tensors)
    with pytest.raises(BadModel, match="lacks"):
        load(huge)


def test_leftovers_and_unknown_keys_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = tiny_checkpoint("llama")
    checkpoint.config = checkpoint.config | {"invented": 1}
    checkpoint.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    checkpoint.tensors["model.layers.0.extra.weight"] = np.zeros(8, np.float32)
    with caplog.at_level(logging.WARNING):
        load(checkpoint)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "unknown_config_keys=invented",
        "unused_tensors=1 names=model.layers.0.extra.weight",
    ]


def test_mtp_layers_are_known_and_not_read(caplog: pytest.LogCaptureFixture) -> None:
    plain = tiny_checkpoint("v3-q-lora")
    config = plain.config | {"num_nextn_predict_layers": 1}
    extra = {
        f"model.layers.3.{name}": weight(1, name, shape)
        for name, shape in {
            "embed_tokens.weight": (101, 64),
            "shared_head.head.weight": (101, 64),
            "eh_proj.weight": (64, 128),
            "self_attn.q_a_proj.weight": (24, 64),
        }.items()
    }
    with_mtp = MemoryCheckpoint(config, plain.tensors | extra)
    with caplog.at_level(logging.WARNING):
        model = load_model(with_mtp, reference.OPS, "float32")
    assert caplog.records == []
    same = load_model(plain, reference.OPS, "float32")
    np.testing.assert_array_equal(whole(model, [1, 2, 3]), whole(same, [1, 2, 3]))


def test_a_tied_head_is_the_embedding_and_its_copy_is_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint = tiny_checkpoint("llama-llama3-tied")
    checkpoint.tensors["lm_head.weight"] = checkpoint.tensors["model.embed_tokens.weight"]
    with caplog.at_level(logging.WARNING):
        model = load_model(checkpoint, reference.OPS, "float32")
    assert isinstance(model, Llama)
    assert model.vocabulary.lm_head is model.vocabulary.embed_tokens
    assert caplog.records == []


def test_the_router_stays_float32_and_norms_too() -> None:
    model = load_model(tiny_checkpoint("v3-q-lora"), reference.OPS, "w8g32")
    assert isinstance(model, DeepseekV3)
    sparse = model.layers[1].mlp
    assert isinstance(sparse, SparseMLP)
    assert sparse.gate.format == "float32"
    assert sparse.experts[0].format == "w8g32"
    assert sparse.experts[0].shape == (16, 64, 64)
    assert model.layers[1].post_attention_layernorm.dtype == np.float32


@pytest.mark.parametrize("name", ["llama", "v3-q-lora"])
def test_progress_counts_every_byte_once(name: str) -> None:
    checkpoint = tiny_checkpoint(name)
    seen: list[tuple[int, int]] = []
    load_model(checkpoint, reference.OPS, "float32", lambda done, total: seen.append((done, total)))
    total = sum(values.nbytes for values in checkpoint.tensors.values())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert len(seen) <= 200


@pytest.mark.parametrize("name", ["llama", "v3-q-lora"])
def test_w8g32_stays_close_to_float32(name: str) -> None:
    """A band from both sides: 8 bits of noise per product are visible, and they are small."""
    tokens = tiny_tokens(40)
    exact = whole(load_model(tiny_checkpoint(name), reference.OPS, "float32"), tokens)
    coarse = whole(load_model(tiny_checkpoint(name), reference.OPS, "w8g32"), tokens, "float16")
    # The median of the rows: where rounding flips the choice of an expert, a row is far off.
    error = np.median(np.linalg.norm(coarse - exact, axis=1) / np.linalg.norm(exact, axis=1))
    steps = np.sqrt(8 * 3 + 2)
    # One 8-bit rounding is uniform in +-1/254 of the group's largest value: about 1/254/sqrt(3)
    # of it, and a group's largest is about sqrt(3) times its norm for uniform values.
    assert error < 4 * steps / 254
    assert error > 0.1 / 254
