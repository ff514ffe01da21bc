"""Cases of what follows logits for the case file: route, argmax, top_logprobs, exponential."""

from __future__ import annotations

import numpy as np

from tests.native.case_file import Apart, Case, Expected
from tests.ops.cases import EPS, draw
from tribody.ops import reference
from tribody.ops.table import F32, RouterSpec

REFERENCE = reference.OPS


def route(
    rng: np.random.Generator, spec: RouterSpec, rows: int, *, biased: bool, equal: bool = False
) -> Case:
    """equal: scores with ties, which go to the lower index."""
    logits = np.zeros((rows, 64), np.float32) if equal else draw(rng, (rows, 64))
    if equal:
        logits[1::2, 40:] = 1
    bias = draw(rng, (64,)) if biased else None
    experts = np.empty((rows, spec.top_k), np.int32)
    weights = np.empty((rows, spec.top_k), np.float32)
    REFERENCE.route(logits, bias, spec, experts, weights)
    # exp within 1.5 ulp on both sides, a sum of 64 positive terms, three roundings.
    allowed = EPS * (2 * 1.5 + np.sqrt(64) + 3) * np.abs(weights)
    marks = " biased" * biased + " equal" * equal
    return Case(
        f"route {spec.scoring} {spec.top_k} of {spec.top_groups}/{spec.num_groups} {rows}{marks}",
        "route",
        {
            "logits": Apart(logits),
            "bias": bias,
            "top_k": spec.top_k,
            "num_groups": spec.num_groups,
            "top_groups": spec.top_groups,
            "sigmoid": int(spec.scoring == "sigmoid"),
            "group_by_two": int(spec.group_score == "top2"),
            "normalize": int(spec.normalize),
            "scale": spec.scale,
        },
        {"experts": Expected(experts), "weights": Expected(weights, allowed)},
    )


def argmax(rng: np.random.Generator, columns: int) -> Case:
    """Ties, the last column, nothing but minus infinity, half a row equal, NaN beside numbers."""
    logits = draw(rng, (6, columns))
    logits[0] = 3
    logits[1, -1] = 9
    logits[2] = -np.inf
    logits[3, columns // 2 :] = 11
    expected = np.argmax(logits, axis=-1).astype(np.int32)
    logits[5, :-1] = np.nan  # larger than nothing: the last column has the only number
    expected[5] = columns - 1
    return Case(
        f"argmax {columns}", "argmax", {"logits": Apart(logits)}, {"out": Expected(expected)}
    )


def top_logprobs(rng: np.random.Generator, columns: int, k: int) -> Case:
    logits = 4 * draw(rng, (3, columns))
    logits[2] = np.round(logits[2])  # many equal values
    ids, logprobs, log_sums = REFERENCE.top_logprobs(logits, k)
    exact = np.log(np.exp(logits.astype(np.float64)).sum(axis=-1))
    # Relative error of the sum of exponentials, then roundings at the size of logits and sums.
    allowed = float(EPS * (np.sqrt(columns) + 4 * (np.abs(logits).max() + np.abs(exact).max())))
    return Case(
        f"top_logprobs {k} of {columns}",
        "top_logprobs",
        {"logits": Apart(logits), "k": k},
        {
            "ids": Expected(ids, apart=False),
            "logprobs": Expected(logprobs, 3 * allowed, apart=False),
            "log_sums": Expected(log_sums, 2 * allowed),
        },
        libm=True,  # logf
    )


def exponential(name: str, x: F32) -> Case:
    """Within 1.5 ulp, and one subnormal unit more where the result is subnormal."""
    with np.errstate(over="ignore"):
        exact = np.exp(x.astype(np.float64)).astype(np.float32)
    finite = np.nan_to_num(exact, posinf=0)
    allowed = 1.5 * np.spacing(finite) + 1.01 * np.finfo(np.float32).smallest_subnormal
    # Rounding `exact` to float32 adds half a unit.
    allowed = allowed + 0.5 * np.spacing(finite)
    return Case(f"exponential {name}", "exponential", {"x": x}, {"out": Expected(exact, allowed)})
