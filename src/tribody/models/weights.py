"""From a checkpoint's named tensors to packed weights, one tensor at a time.

Every family states the tensors it needs as (name, shape) pairs.  They are compared with the
checkpoint before a single byte is read, so a wrong or incomplete model fails at once and by name;
what is left over is reported once.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tribody.core.config import WeightFormat
from tribody.core.errors import BadModel
from tribody.ops.table import F32, Matrix, Ops

logger = logging.getLogger(__name__)

Shapes = Iterator[tuple[str, tuple[int, ...]]]
Progress = Callable[[int, int], None]
# Bytes decoded so far and in all, counted as float32.  Called at most about PROGRESS_CALLS times.

PROGRESS_CALLS = 200  # a 671B model has 45,000 tensors; a bar needs no more steps than this

NAMED_AT_MOST = 8  # names in one message; the rest is a count

DUPLICATES = (r"rotary_emb\.inv_freq$", r"rotary_emb\.cos_cached$", r"rotary_emb\.sin_cached$")
# Buffers that old checkpoints store and that follow from the config.


class TensorSource(Protocol):
    """The part of a checkpoint (loading.checkpoint) that models read."""

    @property
    def config(self) -> dict[str, object]: ...
    def names(self) -> Iterable[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str, rows: slice | None = None) -> F32: ...


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def check_tensors(source: TensorSource, shapes: Shapes, skipped: Sequence[str]) -> int:
    """Compare what a family needs with what the checkpoint holds; returns the values it needs.

    `skipped` are patterns of tensors that are known and not used.
    Raises: BadModel naming missing tensors, or a tensor with its expected and found shape.
    """
    present = set(source.names())
    needed: set[str] = set()
    num_values = 0
    missing: list[str] = []
    for name, expected in shapes:
        if name not in present:
            missing.append(name)
            if len(missing) > NAMED_AT_MOST:
                break
            continue
        needed.add(name)
        num_values += math.prod(expected)
        found = source.shape(name)
        if found != expected:
            raise BadModel(
                f"tensor {name} has shape {list(found)}, config.json asks for {list(expected)}"
            )
    if missing:
        raise BadModel(f"the checkpoint lacks {_listed(missing)}")
    known = re.compile("|".join((*DUPLICATES, *skipped)))
    leftover = sorted(name for name in present - needed if not known.search(name))
    if leftover:
        logger.warning("unused_tensors=%d names=%s", len(leftover), _listed(leftover))
    return num_values


def matrix_name(names: Sequence[str]) -> str:
    """One name for tensors that are packed as one matrix.

    `model.layers.0.mlp.gate_proj+up_proj`; for a stack of experts the first expert's names, whose
    number is left out.
    """
    stem, _, _ = names[0].removesuffix(".weight").rpartition(".")
    leaves = [name.removesuffix(".weight").rpartition(".")[2] for name in names]
    return f"{stem}.{'+'.join(leaves)}".replace(".experts.0.", ".experts.")


@dataclass(slots=True)
class WeightReader:
    """Reads and packs.  `total` values are to be read; `num_bytes` is what was packed so far.

    `matrices` and `vectors` hold all that was given out, by `matrix_name`.
    """

    source: TensorSource
    ops: Ops
    weight_format: WeightFormat
    total: int
    progress: Progress | None = None
    num_read: int = 0
    reported: int = 0
    num_bytes: int = 0
    matrices: dict[str, Matrix] = field(default_factory=dict)
    vectors: dict[str, F32] = field(default_factory=dict)

    def vector(self, *names: str) -> F32:
        """Norm weights or biases, float32 whatever the format; several are joined."""
        read = [self._read(name) for name in names]
        joined = np.ascontiguousarray(read[0] if len(read) == 1 else np.concatenate(read))
        self.num_bytes += joined.nbytes
        self.vectors[matrix_name(names)] = joined
        return joined

    def matrix(self, *names: str, weight_format: WeightFormat | None = None) -> Matrix:
        """One packed matrix whose rows are the named tensors' rows, in their order."""
        return self._pack(matrix_name(names), self._joined(names), weight_format)

    def stack(self, experts: Sequence[Sequence[str]]) -> Matrix:
        """(E, N, K): for each expert the named tensors' rows joined; packed one by one."""
        shapes = [self.source.shape(name) for name in experts[0]]
        shape = (len(experts), sum(rows for rows, _ in shapes), shapes[0][1])
        matrices = (np.ascontiguousarray(self._joined(names)) for names in experts)
        packed = self.ops.pack_stack(matrices, shape, self.weight_format)
        return self._keep(matrix_name(experts[0]), packed)

    def decoded(self, matrix: Matrix) -> F32:
        """What a packed matrix (N, K) stands for, for a caller that packs parts of it."""
        rows, columns = matrix.shape
        values = np.empty((rows, columns), np.float32)
        self.ops.embed(matrix, np.arange(rows, dtype=np.int32), values)
        return values

    def derived(self, name: str, values: F32, weight_format: WeightFormat) -> Matrix:
        """Values that a family made of others, packed under a name of their own."""
        return self._pack(name, values, weight_format)

    def _read(self, name: str) -> F32:
        values = self.source.read(name)
        self.num_read += values.size
        share = self.num_read * PROGRESS_CALLS // self.total
        if self.progress is not None and share > self.reported:
            self.reported = share
            self.progress(4 * self.num_read, 4 * self.total)
        return values

    def _joined(self, names: Sequence[str]) -> F32:
        if len(names) == 1:
            return self._read(names[0])
        shapes = [self.source.shape(name) for name in names]
        whole = np.empty((sum(shape[0] for shape in shapes), *shapes[0][1:]), np.float32)
        self._fill(whole, names)
        return whole

    def _fill(self, whole: F32, names: Sequence[str]) -> None:
        row = 0
        for name in names:
            values = self._read(name)
            whole[row : row + len(values)] = values
            row += len(values)

    def _pack(self, name: str, values: F32, weight_format: WeightFormat | None) -> Matrix:
        values = np.ascontiguousarray(values)
        return self._keep(name, self.ops.pack(values, weight_format or self.weight_format))

    def _keep(self, name: str, packed: Matrix) -> Matrix:
        self.num_bytes += packed.num_bytes
        self.matrices[name] = packed
        return packed
