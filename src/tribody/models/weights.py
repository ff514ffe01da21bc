"""From a checkpoint's named tensors to packed weights, one tensor at a time.

Every family states the tensors it needs as (name, shape) pairs.  They are compared with the
checkpoint before a single byte is read, so a wrong or incomplete model fails at once and by name;
what is left over is reported once.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, get_args, runtime_checkable

import numpy as np

from tribody.core.config import WeightChoice, WeightFormat
from tribody.core.errors import BadModel
from tribody.ops.table import F32, U8, Matrix, Ops
from tribody.precision.codes import Parts
from tribody.precision.formats import matrix_bytes
from tribody.precision.packed_item import VECTOR, PackedItem

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
    def codes(self, name: str) -> tuple[WeightFormat, Parts] | None:
        """A matrix in the numbers it is stored in; None where only float32 holds them."""
        ...


@runtime_checkable
class PackedSource(Protocol):
    """A checkpoint whose matrices are packed already."""

    @property
    def config(self) -> dict[str, object]: ...
    def names(self) -> Iterable[str]:
        """The tensors that are packed alone, under their own names."""
        ...

    def packed(self, key: str) -> PackedItem:
        """Raises: BadModel when there is no such item."""
        ...


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
class Weights:
    """All weights of a model, by `matrix_name`.

    `prescribed` names the matrices whose format the family states, whatever was asked for, and
    `derived` those that repeat the numbers of others in another form.
    """

    matrices: dict[str, Matrix] = field(default_factory=dict)
    vectors: dict[str, F32] = field(default_factory=dict)
    prescribed: set[str] = field(default_factory=set)
    derived: set[str] = field(default_factory=set)

    @property
    def num_bytes(self) -> int:
        matrices = sum(matrix.num_bytes for matrix in self.matrices.values())
        return matrices + sum(vector.nbytes for vector in self.vectors.values())

    @property
    def num_weights(self) -> int:
        """Numbers in all matrices and vectors, those that are derived from others not counted."""
        vectors = sum(vector.size for vector in self.vectors.values())
        return vectors + sum(self.by_format().values())

    def by_format(self) -> dict[str, int]:
        """Numbers in the matrices of each format, those that are derived not counted."""
        counts: dict[str, int] = {}
        for name, matrix in self.matrices.items():
            if name not in self.derived:
                counts[matrix.format] = counts.get(matrix.format, 0) + math.prod(matrix.shape)
        return counts


class WeightReader(Protocol):
    """Where a family's module gets its weights from; each is asked for once."""

    @property
    def ops(self) -> Ops: ...
    @property
    def weights(self) -> Weights:
        """What was given out so far."""
        ...

    def vector(self, *names: str) -> F32:
        """Norm weights or biases, float32 whatever the format; several are joined."""
        ...

    def matrix(self, *names: str, weight_format: WeightFormat | None = None) -> Matrix:
        """One packed matrix whose rows are the named tensors' rows, in their order.

        `weight_format`: prescribed; otherwise it is the reader's to choose.
        """
        ...

    def stack(self, experts: Sequence[Sequence[str]]) -> Matrix:
        """(E, N, K): for each expert the named tensors' rows joined."""
        ...

    def derived(self, name: str, source: Matrix, make: Callable[[F32], F32]) -> Matrix:
        """What `make` makes of the values of a matrix (N, K), packed under a name of its own."""
        ...


@dataclass(slots=True)
class CheckpointReader:
    """Reads tensors and packs them, one at a time.  `total` values are to be read.

    "stored" keeps the numbers of every matrix: in the checkpoint's own codes where a run-time
    format holds them, else in float32.
    """

    source: TensorSource
    ops: Ops
    weight_format: WeightChoice
    total: int
    progress: Progress | None = None
    weights: Weights = field(default_factory=Weights)
    num_read: int = 0
    reported: int = 0

    def vector(self, *names: str) -> F32:
        read = [self._read(name) for name in names]
        joined = np.ascontiguousarray(read[0] if len(read) == 1 else np.concatenate(read))
        self.weights.vectors[matrix_name(names)] = joined
        return joined

    def matrix(self, *names: str, weight_format: WeightFormat | None = None) -> Matrix:
        name = matrix_name(names)
        if weight_format is not None:
            self.weights.prescribed.add(name)
        chosen = weight_format or self.weight_format
        if chosen == "stored":
            known, parts = self._stored(names)
            shape = (sum(self.source.shape(n)[0] for n in names), self.source.shape(names[0])[1])
            return self._keep(name, self.ops.pack_codes(known, parts, shape))
        values = np.ascontiguousarray(self._joined(names))
        return self._keep(name, self.ops.pack(values, chosen))

    def stack(self, experts: Sequence[Sequence[str]]) -> Matrix:
        shapes = [self.source.shape(name) for name in experts[0]]
        shape = (len(experts), sum(rows for rows, _ in shapes), shapes[0][1])
        name = matrix_name(experts[0])
        if self.weight_format == "stored":
            return self._keep(name, self._stored_stack(experts, shape))
        matrices = (np.ascontiguousarray(self._joined(names)) for names in experts)
        return self._keep(name, self.ops.pack_stack(matrices, shape, self.weight_format))

    def derived(self, name: str, source: Matrix, make: Callable[[F32], F32]) -> Matrix:
        rows, columns = source.shape
        values = np.empty((rows, columns), np.float32)
        self.ops.embed(source, np.arange(rows, dtype=np.int32), values)
        # Groups of 32 along another axis would round a second time, and differently.
        plain = source.format
        if plain not in ("float32", "bfloat16", "float16"):
            plain = "float32" if self.weight_format == "stored" else "float16"
        self.weights.derived.add(name)
        return self._keep(name, self.ops.pack(np.ascontiguousarray(make(values)), plain))

    def _read(self, name: str) -> F32:
        values = self.source.read(name)
        self._count(values.size)
        return values

    def _count(self, num_values: int) -> None:
        self.num_read += num_values
        share = self.num_read * PROGRESS_CALLS // self.total
        if self.progress is not None and share > self.reported:
            self.reported = share
            self.progress(4 * self.num_read, 4 * self.total)

    def _stored(self, names: Sequence[str]) -> tuple[WeightFormat, Parts]:
        """The named tensors' rows joined, in the numbers that all of them are stored in."""
        found = [self.source.codes(name) for name in names]
        known = [codes for codes in found if codes is not None]
        if len(known) < len(found) or len({weight_format for weight_format, _ in known}) > 1:
            return "float32", (np.ascontiguousarray(self._joined(names)),)
        self._count(sum(math.prod(self.source.shape(name)) for name in names))
        columns = zip(*(parts for _, parts in known), strict=True)
        return known[0][0], tuple(np.ascontiguousarray(np.concatenate(c)) for c in columns)

    def _stored_stack(
        self, experts: Sequence[Sequence[str]], shape: tuple[int, int, int]
    ) -> Matrix:
        """Experts' codes are in memory once more, beside the packed ones."""
        before = self.num_read
        parts_of_all: Parts = ()
        common: WeightFormat = "float32"
        for index, names in enumerate(experts):
            weight_format, parts = self._stored(names)
            if weight_format == "float32" or (index and weight_format != common):
                self.num_read = before
                matrices = (np.ascontiguousarray(self._joined(names)) for names in experts)
                return self.ops.pack_stack(matrices, shape, "float32")
            if not index:
                common = weight_format
                parts_of_all = tuple(np.empty((len(experts), *p.shape), p.dtype) for p in parts)
            for whole, part in zip(parts_of_all, parts, strict=True):
                whole[index] = part
        return self.ops.pack_codes(common, parts_of_all, shape)

    def _joined(self, names: Sequence[str]) -> F32:
        if len(names) == 1:
            return self._read(names[0])
        shapes = [self.source.shape(name) for name in names]
        whole = np.empty((sum(shape[0] for shape in shapes), *shapes[0][1:]), np.float32)
        row = 0
        for name in names:
            values = self._read(name)
            whole[row : row + len(values)] = values
            row += len(values)
        return whole

    def _keep(self, name: str, packed: Matrix) -> Matrix:
        self.weights.matrices[name] = packed
        return packed


@dataclass(slots=True)
class PackedReader:
    """Takes matrices as they are packed.  Nothing is copied: they are views of the source.

    `shapes` are those that the config asks for, by tensor.
    """

    source: PackedSource
    ops: Ops
    shapes: Mapping[str, tuple[int, ...]]
    weights: Weights = field(default_factory=Weights)

    def vector(self, *names: str) -> F32:
        name = matrix_name(names)
        item = self._item(name, (sum(math.prod(self.shapes[n]) for n in names),))
        if item.form != VECTOR:
            raise BadModel(f"{name} is packed as {item.form}; a vector is expected")
        vector = _bytes_of(name, item, 4 * item.shape[0]).view(np.float32)
        self.weights.vectors[name] = vector
        return vector

    def matrix(self, *names: str, weight_format: WeightFormat | None = None) -> Matrix:
        name = matrix_name(names)
        if weight_format is not None:
            self.weights.prescribed.add(name)
        return self._mapped(name, self._joined_shape(names))

    def stack(self, experts: Sequence[Sequence[str]]) -> Matrix:
        shape = (len(experts), *self._joined_shape(experts[0]))
        return self._mapped(matrix_name(experts[0]), shape)

    def derived(self, name: str, source: Matrix, make: Callable[[F32], F32]) -> Matrix:
        self.weights.derived.add(name)
        return self._mapped(name, make(np.empty(source.shape, np.float32)).shape)

    def _joined_shape(self, names: Sequence[str]) -> tuple[int, ...]:
        shapes = [self.shapes[name] for name in names]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def _item(self, name: str, shape: tuple[int, ...]) -> PackedItem:
        item = self.source.packed(name)
        if item.shape != shape:
            raise BadModel(
                f"{name} is packed with shape {list(item.shape)}; the config asks for {list(shape)}"
            )
        return item

    def _mapped(self, name: str, shape: tuple[int, ...]) -> Matrix:
        item = self._item(name, shape)
        for known in get_args(WeightFormat):
            if item.form == known:
                data = _bytes_of(name, item, matrix_bytes(shape, known))
                packed = self.weights.matrices[name] = self.ops.from_bytes(known, shape, data)
                return packed
        raise BadModel(f"{name} is packed as {item.form}, which this tribody does not know")


def _bytes_of(name: str, item: PackedItem, size: int) -> U8:
    if len(item.data) < size:
        raise BadModel(f"{name} is packed in {len(item.data)} bytes; {size} are expected")
    return item.data[:size]
