"""Cases of operators in one binary file, for the runner that has no Python (main.cc beside this).

    file    8 bytes "TRBCASE1", cases, end
    case    u8 1, text name, text operator, u16 number of fields, fields
    field   text key, u8 kind, value
              kind 0  integer: i64
              kind 1  number: f64
              kind 2  text
              kind 3  array: u8 dtype, u8 apart, u8 axes, i64 size of each axis, elements in C order
    end     u8 0, u64 number of cases
    text    u16 length, UTF-8

Little-endian throughout.  dtype: 0 float32, 1 float16, 2 int32, 3 int64, 4 uint8.
apart: the runner gives
the rows of a two-dimensional array distance and watches what lies between them.

A field is an argument, under the name that it has in `ops.table`, or

    expected.NAME   what argument NAME holds afterwards; NaN = what is not finite
    allowed.NAME    how far from it (array of the same shape, or one number); absent = equal
    format.NAME     text: argument NAME is a matrix, to be packed in this format
    shape.NAME      its shape, int64: NAME holds its bytes as they are packed
    libm            integer 1: a function of the C library takes part, so that the last bits may
                    differ from machine to machine (not from level to level)

An argument that has an expected value and no value of its own is an output: it starts as NaN, its
rows apart if the expected value says so.
Arguments without an expected value must not change.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import WeightFormat
from tribody.ops.reference import ReferenceMatrix

Array = NDArray[Any]

MAGIC = b"TRBCASE1"
TYPES = np.float32, np.float16, np.int32, np.int64, np.uint8
DTYPES = {np.dtype(t): i for i, t in enumerate(TYPES)}


@dataclass(frozen=True)
class Apart:
    """An argument whose rows the runner puts at a distance from each other."""

    values: Array


@dataclass(frozen=True)
class Weights:
    """An argument that the runner packs."""

    values: Array
    weight_format: WeightFormat


@dataclass(frozen=True)
class PackedWeights:
    """An argument of which the runner is given the packed bytes."""

    matrix: ReferenceMatrix


@dataclass(frozen=True)
class Expected:
    """What an argument holds afterwards, and how far off it may be (None = equal).

    apart: of an output, as `Apart` is of an input.
    """

    values: Array
    allowed: Array | float | None = None
    apart: bool = True


Argument = int | float | Array | Apart | Weights | PackedWeights | None


@dataclass(frozen=True)
class Case:
    """One call of one operator."""

    name: str
    operator: str
    arguments: Mapping[str, Argument]
    expected: Mapping[str, Expected] = field(default_factory=dict)
    libm: bool = False


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<H", len(data)) + data


def _array(values: Array, *, apart: bool = False) -> bytes:
    head = struct.pack("<BBBB", 3, DTYPES[values.dtype], apart, values.ndim)
    return head + struct.pack(f"<{values.ndim}q", *values.shape) + values.tobytes()


def _value(value: int | float | str | Array | Apart) -> bytes:
    match value:
        case int():
            return struct.pack("<Bq", 0, value)
        case float():
            return struct.pack("<Bd", 1, value)
        case str():
            return b"\2" + _text(value)
        case Apart():
            return _array(value.values, apart=True)
        case _:
            return _array(value)


def _fields(case: Case) -> dict[str, bytes]:
    fields = {"libm": _value(1)} if case.libm else {}
    for name, argument in case.arguments.items():
        match argument:
            case None:
                continue
            case Weights():
                fields[f"format.{name}"] = _value(argument.weight_format)
                fields[name] = _value(np.ascontiguousarray(argument.values))
            case PackedWeights(matrix):
                fields[f"format.{name}"] = _value(matrix.format)
                fields[f"shape.{name}"] = _value(np.array(matrix.shape, np.int64))
                fields[name] = _value(matrix.buffer)
            case _:
                fields[name] = _value(argument)
    for name, expected in case.expected.items():
        fields[f"expected.{name}"] = _array(expected.values, apart=expected.apart)
        if isinstance(expected.allowed, np.ndarray):
            # To float32 upwards: a bound must not become tighter by rounding.
            fields[f"allowed.{name}"] = _value(
                np.nextafter(expected.allowed.astype(np.float32), np.float32(np.inf))
            )
        elif expected.allowed is not None:
            fields[f"allowed.{name}"] = _value(float(expected.allowed))
    return fields


class CaseFile:
    """Writes cases one after the other; `close` writes the end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._names: set[str] = set()
        stream.write(MAGIC)

    @property
    def count(self) -> int:
        return len(self._names)

    def write(self, case: Case) -> None:
        assert case.name not in self._names, f"two cases are named {case.name}"
        self._names.add(case.name)
        fields = _fields(case)
        head = b"\1" + _text(case.name) + _text(case.operator) + struct.pack("<H", len(fields))
        body = b"".join(_text(key) + value for key, value in fields.items())
        self._stream.write(head + body)

    def close(self) -> None:
        self._stream.write(struct.pack("<BQ", 0, self.count))
