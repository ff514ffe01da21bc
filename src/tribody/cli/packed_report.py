"""Packed models on this machine, and what precision each is kept in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from tribody.cli.engine_options import require_native
from tribody.core.engine_info import WeightPrecision
from tribody.core.errors import BadModel
from tribody.engine.weight_precision import precision_of_file
from tribody.loading.packed_checkpoint import SUFFIX
from tribody.ops import native


class PackedModel(msgspec.Struct, frozen=True):
    """One .tribody file; `problem` says why it cannot be used."""

    path: str
    num_bytes: int
    name: str = ""
    precision: WeightPrecision | None = None
    problem: str | None = None


def packed_models(places: Iterable[Path]) -> list[PackedModel]:
    """Every packed file at or below these places.  Only headers are read.

    Raises: EngineFailed when the compiled kernels are not installed.
    """
    require_native()
    found: set[Path] = set()
    for place in places:
        found |= {place} if place.is_file() else set(place.rglob(f"[!.]*{SUFFIX}"))
    return [_look_at(path) for path in sorted(found)]


def _look_at(path: Path) -> PackedModel:
    size = path.stat().st_size
    try:
        name, precision = precision_of_file(path, native.OPS)
    except BadModel as problem:
        return PackedModel(str(path), size, problem=str(problem))
    return PackedModel(str(path), size, name, precision)


def precision_in_words(precision: WeightPrecision) -> str:
    """`4.57 bits a weight: w4m32 71%, w5m32 29%; recovery 99.51% on prose`."""
    shares = sorted(precision.formats.items(), key=lambda item: -item[1])
    formats = ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)
    text = f"{precision.bits_per_weight:.2f} bits a weight: {formats}"
    if precision.recovery is not None:
        text += f"; recovery {precision.recovery:.2%} on {precision.verified_on}"
    return text
