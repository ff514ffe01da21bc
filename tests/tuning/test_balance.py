"""Balanced norms and matrices compute the same bits, and round with smaller errors."""

from __future__ import annotations

import numpy as np
import pytest

from tribody.loading import bundled
from tribody.ops import native
from tribody.precision.codes import decode, encode
from tribody.precision.compensate import product_error
from tribody.quality.chunks import Chunk
from tribody.tuning.balance import LARGEST, _factors, balance
from tribody.tuning.trial import Trial


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
    balance(trial)
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
    np.testing.assert_array_equal(new[0], old[0] * factors)
    np.testing.assert_allclose(new[1], old[1] / np.outer(factors, factors), rtol=1e-6)


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


def test_what_is_unknown_stays_and_factors_are_bounded() -> None:
    inputs = np.array([0, 1e30, 1e-30, 1, 1], np.float32)
    factors = _factors(inputs, np.array([1, 1, 1, 0, 1], np.float32))
    assert factors[0] == factors[3] == 1
    assert factors[1] == 2.0**LARGEST
    assert factors[2] == 2.0**-LARGEST
    np.testing.assert_array_equal(_factors(inputs * 0, inputs * 0), np.ones(5))
