"""`stored`: every matrix keeps the checkpoint's own numbers."""

from __future__ import annotations

import numpy as np

from tests.models.five_ways import whole
from tests.models.tiny import CONFIGS, F32, MemoryCheckpoint, tiny_tokens, tiny_weights
from tribody.core.config import WeightFormat
from tribody.loading import bundled
from tribody.loading.checkpoint import open_checkpoint
from tribody.models.load import load_model
from tribody.ops import native, reference
from tribody.precision.codes import Parts, encode

TOKENS = tiny_tokens(40)


class Bfloat16Checkpoint(MemoryCheckpoint):
    """Every matrix is stored in bfloat16, but for those that `apart` names."""

    def __init__(self, config: dict[str, object], apart: str) -> None:
        rounded: dict[str, F32] = {}
        for name, values in tiny_weights(config, seed=5).items():
            bits = values.view(np.uint32) & np.uint32(0xFFFF0000)
            rounded[name] = bits.view(np.float32)
        super().__init__(config, rounded)
        self.apart = apart

    def codes(self, name: str) -> tuple[WeightFormat, Parts]:
        if self.apart and self.apart in name:
            return super().codes(name)
        return "bfloat16", encode(self.read(name), "bfloat16")


def test_mini_r1_in_fp8_keeps_its_codes() -> None:
    checkpoint = open_checkpoint(bundled.locate("mini-r1-fp8"))
    model = load_model(checkpoint, native.OPS, "stored")
    counts = model.weights.by_format()
    assert counts["fp8b"] > 0.8 * sum(counts.values())
    name = "model.layers.1.mlp.experts.3.down_proj.weight"
    found = checkpoint.codes(name)
    assert found is not None
    stack = model.weights.matrices["model.layers.1.mlp.experts.down_proj"]
    assert stack.format == "fp8b"
    for part, of_all in zip(found[1], native.OPS.unpack(stack), strict=True):
        np.testing.assert_array_equal(of_all[3], part)
    plain = load_model(checkpoint, native.OPS, "float32")
    expected = whole(plain, TOKENS)
    np.testing.assert_allclose(whole(model, TOKENS), expected, rtol=1e-4, atol=1e-4)


def test_tensors_that_are_stored_alike_are_joined_in_their_codes() -> None:
    checkpoint = Bfloat16Checkpoint(CONFIGS["v3-q-lora"], apart="")
    model = load_model(checkpoint, reference.OPS, "stored")
    router = {name for name in model.weights.matrices if name.endswith("mlp.gate")}
    formats = {n: m.format for n, m in model.weights.matrices.items() if n not in router}
    assert set(formats.values()) == {"bfloat16"}
    twin = load_model(checkpoint, reference.OPS, "bfloat16")
    np.testing.assert_array_equal(whole(model, TOKENS), whole(twin, TOKENS))


def test_tensors_that_are_stored_differently_are_joined_in_float32() -> None:
    """One matrix of a joined pair, and one expert of a stack, are in float32."""
    checkpoint = Bfloat16Checkpoint(CONFIGS["v3-q-lora"], apart="up_proj")
    model = load_model(checkpoint, reference.OPS, "stored")
    formats = {name: matrix.format for name, matrix in model.weights.matrices.items()}
    assert {formats[name] for name in formats if "gate_proj+up_proj" in name} == {"float32"}
    assert {formats[name] for name in formats if name.endswith("down_proj")} == {"bfloat16"}
    one = Bfloat16Checkpoint(CONFIGS["v3-q-lora"], apart="experts.2.down_proj")
    stack = load_model(one, reference.OPS, "stored").weights.matrices
    apart = {name: m.format for name, m in stack.items() if ".experts.down_proj" in name}
    assert apart
    assert set(apart.values()) == {"float32"}


def test_all_values_are_counted_once() -> None:
    seen: list[tuple[int, int]] = []
    for apart in ("", "experts.2.down_proj"):
        checkpoint = Bfloat16Checkpoint(CONFIGS["v3-q-lora"], apart)
        load_model(checkpoint, reference.OPS, "stored", lambda *done: seen.append(done))
        done, total = seen[-1]
        assert done <= total
        assert done > 0.98 * total
