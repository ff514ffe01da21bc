"""The operator table over the C++ kernels of native/.

Methods only put arguments in order: bindings.cc checks shapes, dtypes and strides and raises
ShapeError.  The kernels take the fastest instruction set that the machine has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from tribody import _native
from tribody.core.config import WeightFormat
from tribody.core.errors import ShapeError
from tribody.ops.composed import ComposedDrafter, ComposedGroupedQuery, ComposedLatent
from tribody.ops.layers import (
    DraftModule,
    DraftRows,
    DraftStack,
    GroupedQueryLayer,
    GroupedQuerySpec,
    LatentLayer,
    LatentSpec,
    LayerStack,
    StepRows,
)
from tribody.ops.table import (
    F32,
    I32,
    I64,
    U8,
    AttentionBatch,
    Matrix,
    Pages,
    Phase,
    RouterSpec,
    Setting,
    Tunable,
    check_settings,
)
from tribody.precision import layout
from tribody.precision.codes import Parts, check_parts

PHASES: dict[str, tuple[Phase, ...]] = {  # as native/tunables.h says it
    "decode": ("decode",),
    "prefill": ("prefill",),
    "both": ("decode", "prefill"),
}


def _own(matrix: Matrix) -> _native.Matrix:
    assert isinstance(matrix, _native.Matrix)
    return matrix


def _numbers(spec: RouterSpec) -> tuple[int, int, int, bool, bool, bool, float]:
    return (
        spec.top_k,
        spec.num_groups,
        spec.top_groups,
        spec.scoring == "sigmoid",
        spec.group_score == "top2",
        spec.normalize,
        spec.scale,
    )


class NativeOps:
    """The table filled with native kernels.  Contracts stand in `ops.table`."""

    name = "native"

    def tunables(self) -> tuple[Tunable, ...]:
        levels = _native.isa_levels()
        tried = tuple(levels[1:] or levels)  # the portable one is many times slower
        isa = Tunable("isa", levels[-1], tried, "instruction set of the kernels")
        numbers = (
            Tunable(name, default, tuple(values), meaning, PHASES[phase])
            for name, default, values, phase, meaning in _native.tunables()
        )
        return isa, *numbers

    def tune(self, settings: Mapping[str, Setting]) -> None:
        tunables = self.tunables()
        check_settings(tunables, settings)
        for tunable in tunables:
            value = settings.get(tunable.name, tunable.default)
            if isinstance(value, str):
                _native.set_isa(value)
            else:
                _native.set_tunable(tunable.name, value)

    def pack(self, weights: F32, weight_format: WeightFormat) -> Matrix:
        return _native.pack(weights, weight_format)

    def pack_stack(
        self, weights: Iterable[F32], shape: tuple[int, int, int], weight_format: WeightFormat
    ) -> Matrix:
        stack = _native.empty_stack(shape, weight_format)
        count = 0
        for count, matrix in enumerate(weights, start=1):
            _native.pack_into(stack, count - 1, matrix)
        if count != shape[0]:
            raise ShapeError(f"pack_stack: {count} matrices, expected {shape[0]}")
        return stack

    def pack_codes(
        self, weight_format: WeightFormat, parts: Parts, shape: tuple[int, ...]
    ) -> Matrix:
        check_parts(weight_format, parts, shape)
        packed = layout.to_bytes(weight_format, parts, shape)
        return _native.matrix_of_copy(weight_format, shape, packed)

    def unpack(self, matrix: Matrix) -> Parts:
        return layout.from_bytes(matrix.format, matrix.buffer, matrix.shape)

    def from_bytes(self, weight_format: WeightFormat, shape: tuple[int, ...], buffer: U8) -> Matrix:
        return _native.matrix_over(weight_format, shape, buffer)

    def embed(self, table: Matrix, token_ids: I32, out: F32) -> None:
        _native.embed(_own(table), token_ids, out)

    def rms_norm(self, x: F32, weight: F32, eps: float, out: F32) -> None:
        _native.rms_norm(x, weight, eps, out)

    def linear(
        self, x: F32, weights: Matrix, bias: F32 | None, residual: F32 | None, out: F32
    ) -> None:
        _native.linear(x, _own(weights), bias, residual, out)

    def norm_linear(
        self, x: F32, norm: F32, eps: float, weights: Matrix, bias: F32 | None, out: F32
    ) -> None:
        _native.norm_linear(x, norm, eps, _own(weights), bias, out)

    def norm_mlp(self, x: F32, norm: F32, eps: float, gate_up: Matrix, down: Matrix) -> None:
        _native.norm_mlp(x, norm, eps, _own(gate_up), _own(down))

    def rope_store(
        self,
        qkv: F32,
        heads: tuple[int, int, int],
        cos_sin: tuple[F32, F32],
        qk_norm: tuple[F32, F32, float] | None,
        slots: I64,
        pages: tuple[Pages, Pages],
    ) -> None:
        _native.rope_store(qkv, heads, cos_sin, qk_norm, slots, pages)

    def attend(
        self,
        q: F32,
        heads: tuple[int, int, int],
        pages: tuple[Pages, Pages],
        batch: AttentionBatch,
        scale: float,
        out: F32,
    ) -> None:
        b = batch
        _native.attend(q, heads, pages, b.row_starts, b.starts, b.page_tables, scale, out)

    def mla_store(
        self,
        q: F32,
        head_dims: tuple[int, int, int],
        kv_a: F32,
        norm: F32,
        eps: float,
        cos_sin: tuple[F32, F32],
        interleaved: bool,
        slots: I64,
        pages: Pages,
    ) -> None:
        _native.mla_store(q, head_dims, kv_a, norm, eps, cos_sin, interleaved, slots, pages)

    def mla_attend_absorbed(
        self,
        q: F32,
        head_dims: tuple[int, int, int],
        w_uk: Matrix,
        w_uv: Matrix,
        pages: Pages,
        batch: AttentionBatch,
        scale: float,
        out: F32,
    ) -> None:
        rows = batch.row_starts, batch.starts, batch.page_tables
        _native.mla_attend_absorbed(q, head_dims, _own(w_uk), _own(w_uv), pages, *rows, scale, out)

    def mla_attend_expanded(
        self,
        q: F32,
        head_dims: tuple[int, int, int],
        kv_b: Matrix,
        pages: Pages,
        batch: AttentionBatch,
        scale: float,
        out: F32,
    ) -> None:
        rows = batch.row_starts, batch.starts, batch.page_tables
        _native.mla_attend_expanded(q, head_dims, _own(kv_b), pages, *rows, scale, out)

    def route(
        self, logits: F32, bias: F32 | None, spec: RouterSpec, experts: I32, weights: F32
    ) -> None:
        _native.route(logits, bias, _numbers(spec), experts, weights)

    def moe(
        self,
        x: F32,
        experts: I32,
        weights: F32,
        routed: tuple[Matrix, Matrix],
        shared: tuple[Matrix, Matrix] | None,
        out: F32,
    ) -> None:
        gate_up, down = _own(routed[0]), _own(routed[1])
        shared_gate_up = None if shared is None else _own(shared[0])
        shared_down = None if shared is None else _own(shared[1])
        _native.moe(x, experts, weights, gate_up, down, shared_gate_up, shared_down, out)

    def argmax(self, logits: F32, out: I32) -> None:
        _native.argmax(logits, out)

    def top_logprobs(self, logits: F32, k: int) -> tuple[I32, F32, F32]:
        count = len(logits)
        ids = np.empty((count, k), np.int32)
        logprobs = np.empty((count, k), np.float32)
        log_sums = np.empty(count, np.float32)
        _native.top_logprobs(logits, ids, logprobs, log_sums)
        return ids, logprobs, log_sums

    def grouped_query_layers(
        self, layers: Sequence[GroupedQueryLayer], spec: GroupedQuerySpec
    ) -> LayerStack:
        own = _native.GroupedQueryLayers(list(layers), spec)
        return NativeLayers(own, ComposedGroupedQuery(self, layers, spec))

    def latent_layers(self, layers: Sequence[LatentLayer], spec: LatentSpec) -> LayerStack:
        own = _native.LatentLayers(list(layers), spec, _router(spec))
        return NativeLayers(own, ComposedLatent(self, layers, spec))

    def latent_drafter(self, module: DraftModule, spec: LatentSpec) -> DraftStack:
        own = _native.Drafter(module, spec, _router(spec))
        return NativeDrafter(own, ComposedDrafter(self, module, spec))


def _router(spec: LatentSpec) -> tuple[int, int, int, bool, bool, bool, float] | None:
    return None if spec.router is None else _numbers(spec.router)


def _arrays(step: StepRows) -> tuple[F32, F32, I64, I32, I32, I32, int]:
    """A step as the native layers take it."""
    batch = step.batch
    rows = batch.row_starts, batch.starts, batch.page_tables, step.num_generated
    return (*step.cos_sin, step.slots, *rows)


class NativeLayers:
    """Layers in one call.  `parts` are the same by single operators: where their time goes, and
    what the tests compare them with."""

    def __init__(
        self, own: _native.GroupedQueryLayers | _native.LatentLayers, parts: LayerStack
    ) -> None:
        self._run: Callable[..., None] = own.run
        self.parts = parts

    def run(self, layers: range, x: F32, step: StepRows, pages: tuple[Pages, ...]) -> None:
        self._run((layers.start, layers.stop), x, _arrays(step), *pages)


class NativeDrafter:
    """All passes in one call; `parts` as in `NativeLayers`."""

    def __init__(self, own: _native.Drafter, parts: DraftStack) -> None:
        self._run, self.parts = own.run, parts

    def run(self, hidden: F32, rows: DraftRows, pages: Pages, tokens: I32) -> F32:
        states = np.empty((tokens.shape[1], hidden.shape[1]), np.float32)
        arrays = _arrays(rows.step)
        self._run(rows.token_ids, hidden, arrays, rows.heads, rows.angles, pages, tokens, states)
        return states


OPS = NativeOps()
