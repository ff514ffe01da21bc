"""Packed bytes under a name: what packed files hold and models are built of.

Where the bytes of a format lie stands in `precision.layout`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tribody.precision.quantize import U8

VECTOR = "vector"  # the form of float32 numbers


@dataclass(frozen=True, slots=True)
class PackedItem:
    """`form` is a weight format or VECTOR, or what else its writer stores; `shape` counts numbers.

    `data` (n,): at least the bytes that form and shape take.
    """

    key: str
    form: str
    shape: tuple[int, ...]
    data: U8
