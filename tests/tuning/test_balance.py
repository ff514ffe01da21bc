"""Balanced norms and matrices compute the same bits, and round with smaller errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models.tiny import CONFIGS, MemoryCheckpoint, tiny_weights
from tribody.loading import bundled
from tribody.ops import native
from tribody.ops.table import F32
from tribody.precision.codes import decode, encode
from tribody.precision.compensate import product_error
from tribody.quality.chunks import Chunk
from tribody.tuning.balance import LARGEST, _factors, _helps, balance
from tribody.tuning.trial import Trial
from tribody.tuning.trial_ops import LARGEST_MOMENTS, TrialOps


@pytest.fixture(scope="module")
def pieces() -> list[Chunk]:
    rng = np.random.default_rng(6)
    return [Chunk(rng.integers(20, 1000, 60).tolist(), 1) for _ in range(2)]


def test_logits_keep_their_bits_and_moments_follow(pieces: list[Chunk]) -> None:
    """mini-r1 with channels that are stronger than its own ever are."""
    trial = Trial(bundled.root() / "mini-r1", native.OPS)
    for norm in ("0.post_attention_layernorm", "3.input_layernorm", "3.post_attention_layernorm"):
        trial.weights.vectors[f"model.layers.{norm}"][::16] *= 32
    for index, piece in enumerate(pieces):
        trial.observe(piece, generated=index == 1)
    before = [trial.read(piece, generated=index == 1) for index, piece in enumerate(pieces)]
    norms = {name: vector.copy() for name, vector in trial.weights.vectors.items()}
    name = "model.layers.0.mlp.gate_proj+up_proj"
    old = trial.values(name), trial.matrices[name].mean_moments()
    balance(trial, "w4m32")
    for index, piece in enumerate(pieces):
        after = trial.read(piece, generated=index == 1)
        np.testing.assert_array_equal(after.log_probs, before[index].log_probs)
    changed = [n for n, vector in norms.items() if (vector != trial.weights.vectors[n]).any()]
    assert "model.layers.0.post_attention_layernorm" in changed
    assert "model.layers.3.input_layernorm" in changed
    assert "model.layers.3.post_attention_layernorm" not in changed  # its router reads it
    new = trial.values(name), trial.matrices[name].mean_moments()
    assert old[1] is not None
    assert new[1] is not None
    factors = norms["model.layers.0.post_attention_layernorm"]
    factors = factors / trial.weights.vectors["model.layers.0.post_attention_layernorm"]
    gate, up = np.split(old[0] * factors, 2)
    down = trial.matrices["model.layers.0.mlp.down_proj"].factors
    np.testing.assert_array_equal(new[0], np.concatenate([gate, up / down[:, None]]))
    np.testing.assert_allclose(new[1], old[1] / np.outer(factors, factors), rtol=1e-6)


def _spread(tensors: dict[str, F32]) -> None:
    """Rows of up and v over a range of 100, which balance takes away."""
    rng = np.random.default_rng(7)
    for name, values in tensors.items():
        if any(part in name for part in ("up_proj", "v_proj", "kv_b_proj")):
            sizes = np.exp(rng.uniform(-2.3, 2.3, len(values))).astype(np.float32)
            values *= sizes if values.ndim == 1 else sizes[:, None]


@pytest.mark.parametrize("model", CONFIGS)
def test_every_family_keeps_its_bits(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With biases, shared values, experts, and both forms of latent attention."""

    class Named(MemoryCheckpoint):
        name = fingerprint = "tiny"

        def close(self) -> None: ...

    tensors = tiny_weights(CONFIGS[model], 1)
    _spread(tensors)
    monkeypatch.setattr(
        "tribody.tuning.trial.open_checkpoint", lambda _: Named(CONFIGS[model], tensors)
    )
    monkeypatch.setattr("tribody.tuning.balance._helps", lambda *_: True)
    trial = Trial(Path(model), native.OPS)
    rng = np.random.default_rng(3)
    few = [Chunk(rng.integers(0, 101, 70).tolist(), 1) for _ in range(2)]
    for index, piece in enumerate(few):
        trial.observe(piece, generated=index == 1)
    before = [trial.read(piece, generated=index == 1) for index, piece in enumerate(few)]
    old = {name: (trial.values(name), m.mean_moments()) for name, m in trial.matrices.items()}
    balance(trial, "w4m32")
    for index, piece in enumerate(few):
        after = trial.read(piece, generated=index == 1)
        np.testing.assert_array_equal(after.log_probs, before[index].log_probs)
    fed = [name for name in trial.matrices if name.endswith((".o_proj", ".down_proj"))]
    assert len(fed) >= 6
    for name in fed:
        factors = trial.matrices[name].factors
        assert factors.min() < 1 < factors.max()
        values, moments = old[name]
        np.testing.assert_array_equal(trial.values(name), values * factors[..., None, :])
        given = trial.matrices[name].mean_moments()
        assert moments is not None
        assert given is not None
        if moments.ndim == 2:  # experts that met few rows borrow others'
            np.testing.assert_allclose(given, moments / np.outer(factors, factors), rtol=1e-6)


def test_moments_are_divided_by_each_experts_factors() -> None:
    rng = np.random.default_rng(12)
    rows, values = rng.normal(size=(2, 40, 8)), rng.normal(size=(2, 4, 8)).astype(np.float32)
    factors = np.exp2(rng.integers(-3, 4, (2, 8))).astype(np.float32)
    for largest in (LARGEST_MOMENTS, 0):
        found = []
        for by in (np.ones_like(factors), factors):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tribody.tuning.trial_ops.LARGEST_MOMENTS", largest)
                matrix = TrialOps(native.OPS).pack(values, "float32")
            for expert in range(2):
                matrix.observe((rows[expert] / by[expert]).astype(np.float32), expert)
            found.append(matrix)
        found[0].replace(native.OPS.pack(values * factors[:, None], "float32"), factors)
        np.testing.assert_allclose(found[0].moments, found[1].moments, rtol=1e-5, atol=1e-6)


def test_strong_inputs_are_rounded_with_less_error() -> None:
    rng = np.random.default_rng(9)
    inputs = rng.normal(size=(2000, 96)) * np.exp(1.5 * rng.normal(size=96))
    moments = (inputs.T @ inputs / 2000).astype(np.float32)
    weights = rng.normal(size=(32, 96)).astype(np.float32)
    factors = _factors(np.diagonal(moments), np.mean(weights**2, axis=0))
    assert factors.min() < 1 < factors.max()
    errors = []
    for by in (np.ones(96, np.float32), factors):
        given = decode("w4m32", encode(weights * by, "w4m32"), 96) / by
        errors.append(product_error(weights, given, moments).sum())
    assert errors[1] < 0.6 * errors[0]


def test_what_lies_on_a_grid_of_four_bits_stays() -> None:
    rng = np.random.default_rng(11)
    inputs = (np.exp(1.5 * rng.normal(size=96)) ** 2).astype(np.float32)
    weights = rng.normal(size=(32, 96)).astype(np.float32)
    on_grid = decode("w4m32", encode(weights, "w4m32"), 96)
    factors = _factors(inputs, np.mean(weights**2, axis=0))
    assert _helps(weights, inputs, factors, "w4m32")
    assert not _helps(on_grid, inputs, factors, "w4m32")


def test_what_is_unknown_stays_and_factors_are_bounded() -> None:
    inputs = np.array([0, 1e30, 1e-30, 1, 1], np.float32)
    factors = _factors(inputs, np.array([1, 1, 1, 0, 1], np.float32))
    assert factors[0] == factors[3] == 1
    assert factors[1] == 2.0**LARGEST
    assert factors[2] == 2.0**-LARGEST
    np.testing.assert_array_equal(_factors(inputs * 0, inputs * 0), np.ones(5))
