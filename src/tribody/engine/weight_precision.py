"""What a model's weights are kept in, by count, and what a manifest says that costs."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tribody.core.engine_info import WeightPrecision
from tribody.core.errors import BadModel
from tribody.loading.packed_checkpoint import PackedCheckpoint
from tribody.models.load import has_drafter, load_model
from tribody.models.weights import PackedSource, TensorSource, Weights
from tribody.ops.table import Ops


def precision_of_file(path: Path, ops: Ops) -> tuple[str, WeightPrecision]:
    """A packed file's name for people and its precision; its weights are mapped, not read.

    Raises: BadModel.
    """
    packed = PackedCheckpoint(path)
    model = load_model(packed, ops, "w8g32", drafter=has_drafter(packed))
    return packed.name, precision_of(model.weights, packed)


class _Verification(msgspec.Struct):
    corpus: str
    kl_mean_nats: float


class _Manifest(msgspec.Struct):
    """What is read here of `tuning.manifest.Manifest`."""

    recovery: float
    verification: _Verification


def main_format(weights: Weights) -> str:
    """The format of nearly all weights (routers stay float32), else "mixed"."""
    counts = weights.by_format()
    most = max(counts, key=counts.__getitem__)
    return most if counts[most] > 0.98 * sum(counts.values()) else "mixed"


def precision_of(weights: Weights, checkpoint: TensorSource | PackedSource) -> WeightPrecision:
    """Counted from the matrices; a packed file's manifest says what they cost."""
    counts = weights.by_format()
    total = sum(counts.values())
    plain = WeightPrecision(
        bits_per_weight=8 * weights.num_bytes / weights.num_weights,
        formats={name: count / total for name, count in counts.items()},
    )
    if not isinstance(checkpoint, PackedCheckpoint) or not checkpoint.manifest:
        return plain
    try:
        stated = msgspec.convert(checkpoint.manifest, _Manifest)
    except msgspec.ValidationError as error:
        raise BadModel(f"{checkpoint.name}: its manifest cannot be read: {error}") from error
    return msgspec.structs.replace(
        plain,
        recovery=stated.recovery,
        kl_mean_nats=stated.verification.kl_mean_nats,
        verified_on=stated.verification.corpus,
    )
