"""Cases of random sizes for the case file.  Number i of a seed is the same in every file.

Sizes are drawn with a level logarithm: small ones, where all remainders lie, come often, and a few
pass every chunk and tile.  A case that fails is drawn again with the same choices and smaller sizes
(`smaller`), down to the smallest that still fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import numpy as np

from tests.native import paged, products, sampling
from tests.native.case_file import Case
from tests.ops.cases import FORMATS, Content, Product, draw
from tests.ops.paged_cases import Dtype, Sequence
from tests.ops.test_mla import Problem, Shape
from tests.ops.test_mlp import Experts, weight
from tribody.core.config import WeightFormat
from tribody.ops.table import F32, RouterSpec


class Random(np.random.Generator):
    """Draws case `index` of `seed`; share: of each size's logarithm, 1 = as drawn."""

    def __init__(self, seed: int, index: int, share: float = 1) -> None:
        super().__init__(np.random.PCG64([seed, index]))
        self.share = share


def size(rng: Random, most: int) -> int:
    """In [1, most]."""
    return min(most, int(np.exp(rng.share * rng.uniform(0, np.log(most + 1)))))


def flag(rng: Random) -> bool:
    return bool(rng.random() < 0.5)


def any_format(rng: Random) -> WeightFormat:
    return FORMATS[rng.integers(len(FORMATS))]


def any_dtype(rng: Random) -> Dtype:
    return np.float16 if flag(rng) else np.float32


def any_content(rng: Random) -> Content:
    return cast(Content, rng.choice(["normal", "normal", "outliers", "extremes", "zeros"]))


def any_product(rng: Random) -> Product:
    return Product(
        rows=size(rng, 150),
        columns=size(rng, 600),
        outputs=size(rng, 120),
        content=any_content(rng),
        bias=flag(rng),
        residual=flag(rng),
        strided=flag(rng),
    )


def any_sequences(rng: Random, most: int) -> list[Sequence]:
    count = int(rng.integers(1, 5))
    return [Sequence(size(rng, most) - 1, size(rng, most) - int(flag(rng))) for _ in range(count)]


def linear(rng: Random) -> Case:
    return products.linear(rng, any_product(rng), any_format(rng))


def linear_of_codes(rng: Random) -> Case:
    return products.linear_of_codes(rng, any_product(rng), any_format(rng))


def norm_linear(rng: Random) -> Case:
    return products.linear(rng, any_product(rng), any_format(rng), normed=True)


def any_weights(rng: Random) -> F32:
    """Rows of different magnitudes."""
    rows, columns = size(rng, 100), size(rng, 600)
    powers = rng.integers(-20, 10, (rows, 1)).astype(np.float32)
    return draw(rng, (rows, columns), any_content(rng)) * np.float32(2.0) ** powers


def pack(rng: Random) -> Case:
    weights = any_weights(rng)
    if flag(rng):
        weights = np.stack([weights, draw(rng, weights.shape)])
    return products.pack("x".join(map(str, weights.shape)), weights, any_format(rng))


def embed(rng: Random) -> Case:
    weights = any_weights(rng)
    return products.embed("x".join(map(str, weights.shape)), weights, any_format(rng))


def rms_norm(rng: Random) -> Case:
    return products.rms_norm(rng, size(rng, 100), size(rng, 600))


def norm_mlp(rng: Random) -> Case:
    wanted = products.MlpSize(size(rng, 100), size(rng, 200), size(rng, 150))
    return products.norm_mlp(rng, wanted, (any_format(rng), any_format(rng)))


def moe(rng: Random) -> Case:
    rows, width, inner, num_experts = (size(rng, most) for most in (30, 80, 60, 12))
    order = np.argsort(rng.random((rows, num_experts)), axis=-1)
    top_k, shared = size(rng, min(num_experts, 6)), size(rng, 80)
    case = Experts(
        x=draw(rng, (rows, width)),
        chosen=order[:, :top_k].astype(np.int32),
        weights=rng.random((rows, top_k), dtype=np.float32),
        routed=(
            weight(rng, (num_experts, 2 * inner, width)),
            weight(rng, (num_experts, width, inner)),
        ),
        shared=(weight(rng, (2 * shared, width)), weight(rng, (width, shared))),
    )
    a, b, c, d = (any_format(rng) for _ in range(4))
    return products.moe(case, (a, b, c, d), shared=flag(rng))


def attend(rng: Random) -> Case:
    num_kv_heads, share, dim = size(rng, 4), size(rng, 12), 2 * size(rng, 48)
    heads = (num_kv_heads * share, num_kv_heads, dim)
    seed = int(rng.integers(1 << 31))
    return paged.attend(heads, any_sequences(rng, 100), any_dtype(rng), seed)


def rope_store(rng: Random) -> Case:
    num_kv_heads, share, dim = size(rng, 4), size(rng, 3), 2 * size(rng, 48)
    heads = (num_kv_heads * share, num_kv_heads, dim)
    return paged.rope_store(heads, size(rng, 140), any_dtype(rng), normed=flag(rng))


def any_shape(rng: Random) -> Shape:
    return Shape(size(rng, 12), size(rng, 40), 2 * size(rng, 12), size(rng, 60), size(rng, 40))


def mla_store(rng: Random) -> Case:
    return paged.mla_store(any_shape(rng), size(rng, 140), any_dtype(rng), interleaved=flag(rng))


def mla_attend(rng: Random) -> Case:
    seed = int(rng.integers(1 << 31))
    problem = Problem.random(any_shape(rng), any_sequences(rng, 80), any_dtype(rng), seed)
    return paged.mla_attend(problem, any_format(rng), absorbed=flag(rng))


def route(rng: Random) -> Case:
    num_groups = int(2 ** rng.integers(0, 6))  # of 64 experts
    top_groups = size(rng, num_groups)
    spec = RouterSpec(
        top_k=size(rng, min(8, top_groups * 64 // num_groups)),
        num_groups=num_groups,
        top_groups=top_groups,
        scoring="sigmoid" if flag(rng) else "softmax",
        group_score="top2" if flag(rng) else "max",
        normalize=flag(rng),
        scale=float(np.float32(rng.uniform(0.5, 16))),
    )
    return sampling.route(rng, spec, size(rng, 20), biased=flag(rng))


def argmax(rng: Random) -> Case:
    return sampling.argmax(rng, size(rng, 3000))


def top_logprobs(rng: Random) -> Case:
    columns = size(rng, 3000)
    return sampling.top_logprobs(rng, columns, size(rng, min(columns, 20)))


def exponential(rng: Random) -> Case:
    x = rng.uniform(-104, 88.7, size(rng, 2000)).astype(np.float32)
    return sampling.exponential(f"of {len(x)}", x)


# How often each comes, in hundredths: by how many paths its kernels have.
SHARES: dict[Callable[[Random], Case], int] = {
    linear: 21,
    linear_of_codes: 7,
    norm_linear: 8,
    pack: 4,
    embed: 4,
    rms_norm: 2,
    norm_mlp: 11,
    moe: 11,
    attend: 9,
    rope_store: 3,
    mla_store: 3,
    mla_attend: 9,
    route: 4,
    argmax: 1,
    top_logprobs: 2,
    exponential: 1,
}


def case(rng: Random) -> Case:
    kinds = list(SHARES)
    shares = np.array(list(SHARES.values())) / sum(SHARES.values())
    return kinds[rng.choice(len(kinds), p=shares)](rng)


def cases(count: int, seed: int) -> Iterator[Case]:
    for index in range(count):
        drawn = case(Random(seed, index))
        yield replace(drawn, name=f"seed {seed} case {index}: {drawn.name}")


def smaller(seed: int, index: int) -> Iterator[Case]:
    """Case `index` of `seed`, the smallest form first; the last is the case itself."""
    for tenths in range(11):
        drawn = case(Random(seed, index, tenths / 10))
        yield replace(drawn, name=f"seed {seed} case {index} at {tenths}/10: {drawn.name}")
