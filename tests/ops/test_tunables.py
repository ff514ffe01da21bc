"""Tunables decide how work is cut, never a result: every value of each gives the default's bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.ops.cases import draw
from tests.ops.paged_cases import PROMPTS, gqa_pages, lay_out
from tests.ops.test_attention import attend, queries
from tests.ops.test_mla import Problem, Shape
from tests.ops.test_mlp import draw_experts
from tribody import _native
from tribody.core.config import WeightFormat
from tribody.ops import native, reference
from tribody.ops.table import F32, Tunable

HEADS = (14, 2, 24)
FIRST = str(native.OPS.tunables()[0].values[0])  # the least instruction set that is tried
LATENT = Shape(heads=40, nope=8, rope=4, rank=32, value=8)  # more heads than a tile has pairs


@pytest.fixture(autouse=True)
def two_threads_and_defaults_afterwards() -> Iterator[None]:
    before = _native.num_threads()
    _native.set_num_threads(2)
    yield
    native.OPS.tune({})
    _native.set_num_threads(before)


def products(weight_format: WeightFormat) -> Iterator[F32]:
    rng = np.random.default_rng(3)
    weights = native.OPS.pack(draw(rng, (300, 161)), weight_format)
    for rows in (1, 3, 40, 300):
        out = np.empty((rows, 300), np.float32)
        native.OPS.linear(draw(rng, (rows, 161)), weights, None, None, out)
        yield out
    for rows in (1, 90):
        case = draw_experts(rows, 32)
        out = np.zeros_like(case.x)
        native.OPS.moe(case.x, case.chosen, case.weights, *case.packed((weight_format,) * 4), out)
        yield out


def attention() -> Iterator[F32]:
    for index, sequences in enumerate(PROMPTS):
        rng = np.random.default_rng(index)
        layout = lay_out(sequences, rng)
        pages = gqa_pages(layout, HEADS[1], HEADS[2], np.float16, rng)
        yield attend(queries(layout, HEADS, rng), HEADS, pages, layout.batch)
        problem = Problem.random(LATENT, sequences, np.float16, index)
        yield problem.absorbed(native.OPS, "w8g32")
        yield problem.expanded(native.OPS, "w8g32")


def everything() -> list[F32]:
    return [*products("w8g32"), *products("w4m32"), *products("bfloat16"), *attention()]


@pytest.mark.parametrize("tunable", native.OPS.tunables(), ids=lambda tunable: tunable.name)
def test_every_value_gives_the_same_bits(tunable: Tunable) -> None:
    native.OPS.tune({})
    expected = everything()
    assert tunable.tolerance == 0
    for value in tunable.values:
        native.OPS.tune({tunable.name: value})
        for result, wanted in zip(everything(), expected, strict=True):
            np.testing.assert_array_equal(result, wanted, f"{tunable.name} = {value}")


def test_tune_puts_its_values_in_force_and_defaults_elsewhere() -> None:
    native.OPS.tune({"spin_us": 0, "isa": FIRST})
    assert (_native.tunable("spin_us"), _native.current_isa()) == (0, FIRST)
    native.OPS.tune({"rows_per_chunk": 32})
    assert (_native.tunable("spin_us"), _native.tunable("rows_per_chunk")) == (50, 32)
    assert _native.current_isa() == _native.isa_levels()[-1]


def test_defaults_are_among_the_values_and_in_force_at_first() -> None:
    native.OPS.tune({})
    for name, default, values, phase, meaning in _native.tunables():
        assert default in values
        assert values == sorted(set(values))
        assert phase in native.PHASES
        assert meaning
        assert _native.tunable(name) == default


def test_what_is_no_tunable_is_refused() -> None:
    for ops in (native.OPS, reference.OPS):
        with pytest.raises(ValueError, match="no tunable is named 'speed'"):
            ops.tune({"speed": 11})
    with pytest.raises(ValueError, match="spin_us cannot be 7"):
        native.OPS.tune({"isa": FIRST, "spin_us": 7})
    assert _native.current_isa() == _native.isa_levels()[-1]  # of a refused set nothing is put in
    with pytest.raises(ValueError, match="no tunable is named speed"):
        _native.set_tunable("speed", 1)
    with pytest.raises(ValueError, match="rows_per_chunk cannot be 63"):
        _native.set_tunable("rows_per_chunk", 63)
