"""Writes the operators' cases to one file, for the runner (main.cc): python -m tests.native.export.

The table of tests/ops (its sizes, contents and formats, with the reference's answers), then cases
of random sizes.  `--wrong` writes a few cases with wrong answers: a runner that passes one of them
is itself wrong.  `--smaller` is for a random case that failed: the runner says which of its smaller
forms fail as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from tests.native import paged, products, random_shapes, sampling
from tests.native.case_file import Case, CaseFile
from tests.native.products import MlpSize
from tests.ops.cases import A8_FORMATS, FORMATS, PRODUCTS, ROWS, Product, draw
from tests.ops.paged_cases import PROMPTS, Dtype, Sequence
from tests.ops.test_attention import HEADS
from tests.ops.test_mla import SHAPES, Problem
from tests.ops.test_mlp import MIXED, MOE_FORMATS, SAME, SIZES, W8, draw_experts
from tests.ops.test_pack import SHAPES as TABLES
from tests.ops.test_sampling import SPECS
from tribody.core.config import WeightFormat

DTYPES: tuple[Dtype, ...] = (np.float32, np.float16)


def product_cases(weight_format: WeightFormat) -> Iterator[Case]:
    rng = np.random.default_rng(3)
    for shape in TABLES:
        for content in ("normal", "outliers"):
            weights = draw(rng, shape, "outliers" if content == "outliers" else "normal")
            name = f"{shape[0]}x{shape[1]} {content}"
            yield products.pack(name, weights, weight_format)
            yield products.embed(name, weights, weight_format)
    yield products.pack("stack", draw(rng, (3, 17, 33)), weight_format)
    powers = np.arange(-149, 128, 3)  # to subnormals, and past the largest scale of every format
    with np.errstate(over="ignore"):
        values = np.ldexp(draw(rng, (len(powers), 64)), powers[:, None]).astype(np.float32)
    yield products.pack("of every magnitude", values, weight_format)
    yield products.embed("of every magnitude", values, weight_format)
    for case in PRODUCTS:
        yield products.linear(rng, case, weight_format)
    for rows, columns in [(0, 64), (1, 576), (9, 33), (20, 100)]:
        case = Product(rows, columns, 24, bias=True)
        yield products.linear(rng, case, weight_format, normed=True)
    for value in (np.nan, np.inf, -np.inf):
        yield products.spoiled(rng, weight_format, value)
    for size in (1e-45, 1e-38, 1e-36, 1e-30, 1e30):
        yield products.magnitude(weight_format, size)


def mixed_cases() -> Iterator[Case]:
    """Products of several formats, or of those that meet A8 activations, or of none."""
    rng = np.random.default_rng(4)
    for weight_format in A8_FORMATS:
        for rows in (1, 3, 8, 16):
            yield products.saturation(weight_format, rows)
    for formats in SAME + MIXED:
        for width, inner in SIZES:
            for rows in (0, 1, 3, 9, 70):
                yield products.norm_mlp(rng, MlpSize(rows, width, inner), formats)
    for moe_formats in MOE_FORMATS:
        for inner in (32, 20):
            for rows in (0, 1, 3, 9, 40):
                yield products.moe(draw_experts(rows, inner), moe_formats)
    case = draw_experts(70, 32)  # one expert for all: more rows than a chunk, many without any
    alone = replace(
        case, chosen=np.full((70, 1), 2, np.int32), weights=np.ones((70, 1), np.float32)
    )
    yield products.moe(alone, W8, shared=False)
    for columns in (1, 7, 8, 33, 576, 1536):
        for rows in ROWS:
            yield products.rms_norm(rng, rows, columns)


def paged_cases() -> Iterator[Case]:
    for dtype in DTYPES:
        for heads in HEADS:
            for index, sequences in enumerate(PROMPTS):
                yield paged.attend(heads, sequences, dtype, index)
        for heads in [(9, 3, 64), (4, 4, 16), (3, 1, 20), (2, 2, 128)]:
            for rows in (1, 65, 130):
                for normed in (False, True):
                    yield paged.rope_store(heads, rows, dtype, normed=normed)
        for shape in SHAPES:
            for rows in (1, 65, 130):
                for interleaved in (False, True):
                    yield paged.mla_store(shape, rows, dtype, interleaved=interleaved)
            prompts = PROMPTS if shape.rank < 100 else [PROMPTS[3], PROMPTS[7]]
            for index, sequences in enumerate(prompts):
                problem = Problem.random(shape, sequences, dtype, index)
                for absorbed in (True, False):
                    yield paged.mla_attend(problem, "float32", absorbed=absorbed)
    for shape in SHAPES[:2]:
        problem = Problem.random(shape, [Sequence(0, 70), Sequence(100, 2)], np.float16, 3)
        for weight_format in FORMATS:
            for absorbed in (True, False):
                yield paged.mla_attend(problem, weight_format, absorbed=absorbed)


def sampling_cases() -> Iterator[Case]:
    rng = np.random.default_rng(1)
    for spec in SPECS:
        for rows in (0, 1, 9):
            for biased in (False, True):
                yield sampling.route(rng, spec, rows, biased=biased)
        yield sampling.route(rng, spec, 2, biased=False, equal=True)
    for columns in (1, 7, 8, 1000, 49152):
        yield sampling.argmax(rng, columns)
    for columns, k in ((1, 1), (5, 5), (1000, 21), (49152, 20)):
        yield sampling.top_logprobs(rng, columns, k)
    for name, low, high in [("wide", -87.3, 88.7), ("near zero", -1, 1), ("tiny", -104, -87.3)]:
        yield sampling.exponential(name, rng.uniform(low, high, 20_001).astype(np.float32))
    ends = np.array([0, -0.0, np.inf, -np.inf, np.nan, 88.8, 1e30, -104, -1e30], np.float32)
    yield sampling.exponential("ends", ends)


def table() -> Iterator[Case]:
    for weight_format in FORMATS:
        yield from product_cases(weight_format)
    yield from mixed_cases()
    yield from paged_cases()
    yield from sampling_cases()


def wrong_cases() -> Iterator[Case]:
    """For every expected argument of every operator and format one case, one element wrong."""
    rng, seen = np.random.default_rng(0), set()
    for case in table():
        kind = " ".join(case.name.split()[:2])
        for name, expected in case.expected.items():
            finite = np.flatnonzero(np.isfinite(expected.values))
            if len(finite) == 0 or (kind, name) in seen:
                continue
            seen.add((kind, name))
            values, place = expected.values.copy(), int(rng.choice(finite))
            if values.dtype.kind == "f":
                bound = 0 if expected.allowed is None else expected.allowed
                allowed = np.broadcast_to(bound, values.shape).flat[place]
                values.flat[place] += 3 * allowed + 2 * np.spacing(np.abs(values.flat[place]))
            else:
                values.flat[place] ^= 1
            answers = dict(case.expected) | {name: replace(expected, values=values)}
            yield replace(case, name=f"wrong {name}: {case.name}", expected=answers)


def chosen(options: argparse.Namespace) -> Iterator[Case]:
    if options.wrong:
        return wrong_cases()
    if options.smaller is not None:
        return random_shapes.smaller(options.seed, options.smaller)
    drawn = random_shapes.cases(options.random, options.seed)
    return drawn if options.no_table else chain(table(), drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--random", type=int, default=0, help="cases of random sizes")
    parser.add_argument("--seed", type=int, default=0, help="of the random sizes")
    parser.add_argument("--no-table", action="store_true", help="random sizes only")
    parser.add_argument("--wrong", action="store_true", help="cases with wrong answers only")
    parser.add_argument("--smaller", type=int, help="only this random case, in growing sizes")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("wb") as stream:
        cases = CaseFile(stream)
        for case in chosen(options):
            cases.write(case)
        cases.close()
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {cases.count} cases, {size:.1f} MB, seed {options.seed}")


if __name__ == "__main__":
    main()
