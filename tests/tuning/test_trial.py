"""Trial matrices: what is exchanged, what is observed, what a rounding costs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tribody.core.config import WeightFormat
from tribody.loading import bundled
from tribody.ops import native, reference
from tribody.precision.codes import decode, encode
from tribody.precision.compensate import product_error
from tribody.quality.chunks import Chunk
from tribody.tuning.divergence import divergence, log_softmax
from tribody.tuning.fitting import Fits, importance_of
from tribody.tuning.sensitivity import sensitivities
from tribody.tuning.trial import Trial
from tribody.tuning.trial_ops import TrialOps

PATH = bundled.root() / "mini-r1"


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial(PATH, native.OPS)


@pytest.fixture(scope="module")
def pieces() -> list[Chunk]:
    rng = np.random.default_rng(4)
    return [Chunk(rng.integers(20, 1000, 80).tolist(), 1) for _ in range(2)]


@pytest.fixture(scope="module")
def readings(trial: Trial, pieces: list[Chunk]):
    return [trial.read(piece, generated=i == 1) for i, piece in enumerate(pieces)]


def test_divergence_is_that_of_the_textbook() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 150, 40)).astype(np.float32)
    p, q = (np.exp(x - x.max(1, keepdims=True)).astype(np.float64) for x in (a, b))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = (p * np.log(p / q)).sum(1)
    np.testing.assert_allclose(divergence(log_softmax(a), b), expected, atol=2e-6)
    assert np.abs(divergence(log_softmax(a), a)).max() < 1e-6


def test_nothing_exchanged_costs_nothing_from_any_layer(trial: Trial, readings) -> None:
    for first in range(-1, 7):
        assert trial.divergence(readings, first) == pytest.approx(0, abs=1e-9)


def test_a_rounded_matrix_costs_the_same_from_its_layer_as_from_the_start(
    trial: Trial, readings
) -> None:
    name = "model.layers.3.mlp.experts.gate_proj+up_proj"
    matrix = trial.matrices[name]
    original = matrix.matrix
    try:
        matrix.matrix = native.OPS.pack(trial.values(name), "w4m32")
        first = trial.first_layer(name)
        assert first == 3
        late, whole = (trial.divergence(readings, layer) for layer in (first, -1))
    finally:
        matrix.matrix = original
    assert late == whole > 1e-6
    assert trial.divergence(readings, -1) == pytest.approx(0, abs=1e-9)


def test_fewer_bits_cost_more(trial: Trial, readings) -> None:
    formats: tuple[WeightFormat, ...] = ("w8g32", "w4m32")
    names = ["model.layers.1.self_attn.o_proj", "model.embed_tokens"]
    whole = trial.matrices
    trial.matrices = {name: whole[name] for name in names}
    try:
        fits = Fits(trial, native.OPS, 2)
        found = sensitivities(trial, fits, formats, readings, lambda _: None)
    finally:
        trial.matrices = whole
    for name in names:
        fine, coarse = found[name]
        assert fine.choice == "w8g32"
        assert coarse.num_bytes < fine.num_bytes
        assert 0 < fine.loss < coarse.loss / 10


def test_routers_and_vectors_are_not_free(trial: Trial) -> None:
    assert not [name for name in trial.matrices if name.endswith(".gate")]
    routers = 6 * 16 * 192 * 4
    assert trial.prescribed_bytes > routers


def test_what_a_drafter_holds_is_exchanged_but_costs_nothing(trial: Trial) -> None:
    drafted = [name for name in trial.matrices if trial.first_layer(name) is None]
    assert "model.layers.6.eh_proj" in drafted


def test_observed_inputs_are_those_of_the_products() -> None:
    rng = np.random.default_rng(2)
    ops = TrialOps(reference.OPS)
    gate_up = ops.pack(rng.normal(size=(12, 8)).astype(np.float32), "float32")
    down = ops.pack(rng.normal(size=(8, 6)).astype(np.float32), "float32")
    x = rng.normal(size=(5, 8)).astype(np.float32)
    norm = rng.normal(size=8).astype(np.float32)
    ops.observing = True
    stream = x.copy()
    ops.norm_mlp(stream, norm, 1e-6, gate_up, down)
    hidden = x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 1e-6) * norm
    products = hidden.T @ hidden / len(hidden)
    moments = gate_up.mean_moments()
    assert moments is not None
    np.testing.assert_allclose(moments, products, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(importance_of(gate_up), np.mean(hidden**2, axis=0), rtol=1e-5)
    gate, up = np.split(hidden @ ops.values(gate_up).T, 2, axis=1)
    inner = gate / (1 + np.exp(-gate)) * up
    inner /= np.sqrt(np.mean(stream**2, axis=1, keepdims=True))  # what the next norm divides by
    np.testing.assert_allclose(importance_of(down), np.mean(inner**2, axis=0), rtol=1e-4)


def test_experts_observe_their_own_rows_and_borrow_when_they_have_few() -> None:
    rng = np.random.default_rng(3)
    ops = TrialOps(reference.OPS)
    gate_up = ops.pack(rng.normal(size=(3, 4, 8)).astype(np.float32), "float32")
    down = ops.pack(rng.normal(size=(3, 8, 2)).astype(np.float32), "float32")
    x = rng.normal(size=(40, 8)).astype(np.float32)
    experts = np.zeros((40, 1), np.int32)
    experts[30:] = 1  # expert 2 meets nothing
    ops.observing = True
    weights = np.ones((40, 1), np.float32)
    ops.moe(x, experts, weights, (gate_up, down), None, np.zeros((40, 8), np.float32))
    assert gate_up.counts.tolist() == [30, 10, 0]
    mean = np.mean(x**2, axis=0)
    np.testing.assert_allclose(importance_of(gate_up)[0], np.mean(x[:30] ** 2, axis=0), rtol=1e-5)
    np.testing.assert_allclose(importance_of(gate_up)[2], mean, rtol=1e-5)


def test_what_meets_the_stream_counts_by_its_size_and_experts_by_their_part() -> None:
    rng = np.random.default_rng(8)
    ops = TrialOps(reference.OPS)
    out_proj = ops.pack(rng.normal(size=(8, 6)).astype(np.float32), "float32")
    x, residual = rng.normal(size=(2, 5, 8)).astype(np.float32)
    x = x[:, :6].copy()
    residual[0] *= 1000  # a first token
    out = np.empty((5, 8), np.float32)
    ops.observing = True
    ops.linear(x, out_proj, None, residual, out)
    scaled = x / np.sqrt(np.mean(out**2, axis=1, keepdims=True))
    np.testing.assert_allclose(importance_of(out_proj), np.mean(scaled**2, axis=0), rtol=1e-4)
    gate_up = ops.pack(rng.normal(size=(2, 4, 8)).astype(np.float32), "float32")
    down = ops.pack(rng.normal(size=(2, 8, 2)).astype(np.float32), "float32")
    rows = rng.normal(size=(40, 8)).astype(np.float32)
    experts = np.tile(np.array([0, 1], np.int32), (40, 1))
    weights = np.tile(np.array([0.9, 0.1], np.float32), (40, 1))
    ops.moe(rows, experts, weights, (gate_up, down), None, np.zeros((40, 8), np.float32))
    mean = np.mean(rows**2, axis=0)
    np.testing.assert_allclose(importance_of(gate_up)[0], 0.81 * mean, rtol=1e-4)
    np.testing.assert_allclose(importance_of(gate_up)[1], 0.01 * mean, rtol=1e-4)


def test_of_large_stacks_only_squares_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    x, weights = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(3, 4, 8))
    experts = np.repeat(np.arange(3, dtype=np.int32), [20, 15, 5])
    found = []
    for largest in (1 << 26, 3 * 8 * 8 * 4 - 1):
        monkeypatch.setattr("tribody.tuning.trial_ops.LARGEST_MOMENTS", largest)
        matrix = TrialOps(reference.OPS).pack(weights.astype(np.float32), "float32")
        for expert in range(3):
            matrix.observe(x[experts == expert], expert)
        found.append(matrix)
    assert [matrix.moments.ndim for matrix in found] == [3, 2]
    np.testing.assert_allclose(importance_of(found[1]), importance_of(found[0]), rtol=1e-5)


def test_what_was_never_met_matters_evenly() -> None:
    matrix = TrialOps(reference.OPS).pack(np.ones((2, 4, 8), np.float32), "float32")
    assert matrix.mean_moments() is None
    np.testing.assert_array_equal(importance_of(matrix), np.ones((2, 8), np.float32))


def test_losses_add_up_to_the_whole_models(
    trial: Trial, readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the coarsest format fitted, in the finest rounded plainly, in between in proportion."""
    formats: tuple[WeightFormat, ...] = ("w8g32", "w5m32", "w4m32")
    few = {n: m for n, m in trial.matrices.items() if re.search(r"embed|[036]\.(self|mlp|eh)", n)}
    monkeypatch.setattr(trial, "matrices", few)
    done: list[int] = []
    fits = Fits(trial, native.OPS, 2)
    found = sensitivities(trial, fits, formats, readings, done.append)
    assert sum(done) == 2 * len(few) + len(formats)
    assert trial.divergence(readings, -1) == pytest.approx(0, abs=1e-9)
    plain = []
    for weight_format in formats:
        for name, matrix in few.items():
            matrix.matrix = trial.rounded(name, weight_format)
        plain.append(trial.divergence(readings, -1))
    fits.exchange(dict.fromkeys(few, "w4m32"), lambda _: None)
    coarsest = trial.divergence(readings, -1)
    for matrix in few.values():
        matrix.matrix = matrix.original
    sums = [sum(options[index].loss for options in found.values()) for index in range(3)]
    assert plain[0] < coarsest < plain[2]
    left = (coarsest - plain[0]) / (plain[2] - plain[0])
    between = plain[0] + left * (plain[1] - plain[0])
    assert sums == pytest.approx([plain[0], between, coarsest])
    drafted = [name for name in few if trial.first_layer(name) is None]
    assert drafted
    assert {option.loss for name in drafted for option in found[name]} == {0}


@pytest.mark.parametrize("weight_format", ["w6g32", "w4m32"])
def test_fitted_codes_change_products_less(trial: Trial, pieces, weight_format) -> None:
    for piece in pieces:
        trial.observe(piece, generated=False)
    names = ["model.layers.2.self_attn.o_proj", "model.layers.2.mlp.experts.down_proj"]
    whole, trial.matrices = trial.matrices, {name: trial.matrices[name] for name in names}
    try:
        done: list[int] = []
        fits = Fits(trial, native.OPS, 2)
        fits.exchange(dict.fromkeys(names, weight_format), done.append)
        assert sum(done) == len(names)
        for name, matrix in trial.matrices.items():
            assert matrix.format == weight_format
            values, moments = trial.values(name), matrix.mean_moments()
            assert moments is not None
            columns = values.shape[-1]
            plain = decode(weight_format, encode(values, weight_format), columns)
            fitted = decode(weight_format, native.OPS.unpack(matrix.matrix), columns)
            stacks = (a.reshape(-1, *a.shape[-2:]) for a in (values, plain, fitted, moments))
            errors = [
                [product_error(v, p, m).sum(), product_error(v, f, m).sum()]
                for v, p, f, m in zip(*stacks, strict=True)
            ]
            before, after = np.sum(errors, axis=0)
            assert after < 0.8 * before
    finally:
        for matrix in trial.matrices.values():
            matrix.matrix = matrix.original
        trial.matrices = whole


def test_a_token_meets_its_experts_and_no_embedding_but_the_head(trial: Trial) -> None:
    shape = trial.matrices["model.layers.2.mlp.experts.down_proj"].shape
    work = trial.work("model.layers.2.mlp.experts.down_proj")
    assert 0 < work < np.prod(shape)
    assert (work * shape[0]) % np.prod(shape) == 0
    assert trial.work("model.layers.2.self_attn.kv_b_proj") == 0
    assert trial.work("model.layers.6.eh_proj") == 0
    assert trial.work("model.layers.2.self_attn.w_uk") > 0
