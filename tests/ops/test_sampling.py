"""route, argmax and top_logprobs against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.cases import EPS, draw, rows_of
from tribody.core.errors import ShapeError
from tribody.ops import native, reference
from tribody.ops.table import F32, I32, RouterSpec

NATIVE, REFERENCE = native.OPS, reference.OPS

SPECS = [
    RouterSpec(top_k=1),
    RouterSpec(top_k=6, scale=16.0),
    RouterSpec(top_k=4, normalize=True),
    RouterSpec(top_k=3, num_groups=4, top_groups=2, group_score="max", scale=2.0),
    RouterSpec(
        top_k=8,
        num_groups=8,
        top_groups=4,
        scoring="sigmoid",
        group_score="top2",
        normalize=True,
        scale=2.5,
    ),
    RouterSpec(top_k=5, num_groups=8, top_groups=1, scoring="sigmoid", group_score="top2"),
    RouterSpec(top_k=2, num_groups=64, top_groups=3, group_score="top2"),
]


def routed(ops: native.NativeOps | reference.ReferenceOps, *args: object) -> tuple[I32, F32]:
    logits, bias, spec = args
    assert isinstance(logits, np.ndarray)
    assert isinstance(spec, RouterSpec)
    assert bias is None or isinstance(bias, np.ndarray)
    experts = np.full((len(logits), spec.top_k), -7, np.int32)
    weights = np.full((len(logits), spec.top_k), np.nan, np.float32)
    ops.route(logits, bias, spec, experts, weights)
    return experts, weights


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.scoring}-{s.num_groups}-{s.top_k}")
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_route_against_the_reference(isa: str, spec: RouterSpec, biased: bool, rows: int) -> None:
    rng = np.random.default_rng(1)
    logits = rows_of(draw(rng, (rows, 64)), strided=True)
    bias = draw(rng, (64,)) if biased else None
    experts, weights = routed(NATIVE, logits, bias, spec)
    expected_experts, expected_weights = routed(reference.ReferenceOps(), logits, bias, spec)
    np.testing.assert_array_equal(experts, expected_experts)
    # exp within 1.5 ulp on both sides, a sum of 64 positive terms, three roundings.
    allowed = EPS * (2 * 1.5 + np.sqrt(64) + 3) * np.abs(expected_weights)
    assert (np.abs(weights - expected_weights) <= allowed).all()


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.scoring}-{s.num_groups}-{s.top_k}")
def test_equal_scores_go_to_the_lower_expert(isa: str, spec: RouterSpec) -> None:
    logits = np.zeros((2, 64), np.float32)
    logits[1, 40:] = 1
    experts, _ = routed(NATIVE, logits, None, spec)
    np.testing.assert_array_equal(experts, routed(reference.ReferenceOps(), logits, None, spec)[0])


def test_route_survives_what_is_not_a_number(isa: str) -> None:
    logits = np.full((2, 64), np.nan, np.float32)
    logits[1, ::2] = np.inf
    for spec in SPECS:
        experts, _ = routed(NATIVE, logits, None, spec)
        assert ((experts >= 0) & (experts < 64)).all()


def test_route_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="groups"):
        routed(NATIVE, np.zeros((1, 64), np.float32), None, RouterSpec(top_k=2, num_groups=5))


@pytest.mark.parametrize("columns", [1, 7, 8, 1000, 49152])
def test_argmax(isa: str, columns: int) -> None:
    logits = draw(np.random.default_rng(2), (5, columns))
    logits[0] = 3
    logits[1, -1] = 9
    logits[2] = -np.inf
    logits[3, columns // 2 :] = 11
    out = np.empty(5, np.int32)
    NATIVE.argmax(rows_of(logits, strided=True), out)
    np.testing.assert_array_equal(out, np.argmax(logits, axis=-1))
    logits[:] = np.nan
    NATIVE.argmax(logits, out)
    assert ((out >= 0) & (out < columns)).all()


@pytest.mark.parametrize(("columns", "k"), [(1, 1), (5, 5), (1000, 21), (49152, 20)])
def test_top_logprobs_against_the_reference(isa: str, columns: int, k: int) -> None:
    logits = 4 * draw(np.random.default_rng(3), (3, columns))
    logits[2] = np.round(logits[2])  # many equal values
    ids, logprobs, log_sums = NATIVE.top_logprobs(logits, k)
    expected_ids, expected, expected_sums = REFERENCE.top_logprobs(logits, k)
    np.testing.assert_array_equal(ids, expected_ids)
    exact = np.log(np.exp(logits.astype(np.float64)).sum(axis=-1))
    # Relative error of the sum of exponentials, then roundings at the size of logits and sums.
    allowed = EPS * (np.sqrt(columns) + 4 * (np.abs(logits).max() + np.abs(exact).max()))
    assert np.abs(log_sums - exact).max() <= allowed
    assert np.abs(log_sums - expected_sums).max() <= 2 * allowed
    assert np.abs(logprobs - expected).max() <= 3 * allowed
