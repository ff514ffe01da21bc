"""The exported cases cover every operator and format, and are the same each time."""

from __future__ import annotations

import inspect
from io import BytesIO
from typing import get_args

import numpy as np

from tests.native import random_shapes
from tests.native.case_file import CaseFile, Weights
from tribody.core.config import WeightFormat
from tribody.ops.table import Ops


def test_every_operator_has_random_shapes() -> None:
    """But the other ways to pack, and tuning.  `exponential` is what several operators share."""
    operators = {name for name, _ in inspect.getmembers(Ops, inspect.isfunction) if name[0] != "_"}
    drawn = {kind(random_shapes.Random(1, 0)).operator for kind in random_shapes.SHARES}
    drawn |= {random_shapes.mla_attend(random_shapes.Random(i, 0)).operator for i in range(8)}
    others = {"pack_stack", "pack_codes", "unpack", "from_bytes", "tunables", "tune"}
    assert drawn - {"exponential"} == operators - others


def test_every_format_is_drawn() -> None:
    formats = set()
    for case in random_shapes.cases(200, seed=1):
        for argument in case.arguments.values():
            if isinstance(argument, Weights):
                formats.add(argument.weight_format)
    assert formats == set(get_args(WeightFormat))


def test_a_case_is_the_same_in_every_file() -> None:
    def written(count: int) -> bytes:
        stream = BytesIO()
        cases = CaseFile(stream)
        for case in random_shapes.cases(count, seed=7):
            cases.write(case)
        return stream.getvalue()

    assert written(12) == written(12)
    assert written(12).startswith(written(5))
    assert written(12) != written(5)


def test_smaller_cases_end_with_the_case_itself() -> None:
    (*_, whole) = random_shapes.cases(8, seed=7)
    *less, last = random_shapes.smaller(7, 7)
    assert last.name.split(": ")[1] == whole.name.split(": ")[1]
    sizes = [sum(np.size(v.values) for v in c.expected.values()) for c in (less[0], last)]
    assert sizes[0] < sizes[1]
