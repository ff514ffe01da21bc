from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray

import tribody.core.config


class Matrix:
    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def format(self) -> tribody.core.config.WeightFormat: ...

    @property
    def num_bytes(self) -> int: ...

    @property
    def buffer(self) -> NDArray[numpy.uint8]: ...

def pack(weights: Annotated[NDArray, dict(device='cpu', writable=False)], weight_format: str) -> Matrix: ...

def empty_stack(shape: tuple[int, int, int], weight_format: str) -> Matrix: ...

def pack_into(stack: Matrix, expert: int, weights: Annotated[NDArray, dict(device='cpu', writable=False)]) -> None: ...

def matrix_over(weight_format: str, shape: Sequence[int], buffer: Annotated[NDArray, dict(device='cpu', writable=False)]) -> Matrix:
    """A matrix over packed bytes that stay where they are."""

def matrix_of_copy(weight_format: str, shape: Sequence[int], buffer: Annotated[NDArray, dict(device='cpu', writable=False)]) -> Matrix:
    """A matrix with a copy of packed bytes."""

def embed(table: Matrix, token_ids: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def format_sizes() -> list[tuple[str, int, int, int, int, bool]]:
    """
    (name, panel_rows, tile_columns, tile_bytes, header_bytes, takes_a8) of each format.
    """

def rms_norm(x: Annotated[NDArray, dict(device='cpu', writable=False)], weight: Annotated[NDArray, dict(device='cpu', writable=False)], eps: float, out: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def linear(x: Annotated[NDArray, dict(device='cpu', writable=False)], weights: Matrix, bias: Annotated[NDArray, dict(device='cpu', writable=False)] | None, residual: Annotated[NDArray, dict(device='cpu', writable=False)] | None, out: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def norm_linear(x: Annotated[NDArray, dict(device='cpu', writable=False)], norm: Annotated[NDArray, dict(device='cpu', writable=False)], eps: float, weights: Matrix, bias: Annotated[NDArray, dict(device='cpu', writable=False)] | None, out: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def norm_mlp(x: Annotated[NDArray, dict(device='cpu')], norm: Annotated[NDArray, dict(device='cpu', writable=False)], eps: float, gate_up: Matrix, down: Matrix) -> None: ...

def moe(x: Annotated[NDArray, dict(device='cpu', writable=False)], experts: Annotated[NDArray, dict(device='cpu', writable=False)], weights: Annotated[NDArray, dict(device='cpu', writable=False)], gate_up: Matrix, down: Matrix, shared_gate_up: Matrix | None, shared_down: Matrix | None, out: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def route(logits: Annotated[NDArray, dict(device='cpu', writable=False)], bias: Annotated[NDArray, dict(device='cpu', writable=False)] | None, spec: tuple[int, int, int, bool, bool, bool, float], experts: Annotated[NDArray, dict(device='cpu')], weights: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def argmax(logits: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def top_logprobs(logits: Annotated[NDArray, dict(device='cpu', writable=False)], ids: Annotated[NDArray, dict(device='cpu')], logprobs: Annotated[NDArray, dict(device='cpu')], log_sums: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def exponential(x: Annotated[NDArray, dict(device='cpu', writable=False)], out: Annotated[NDArray, dict(device='cpu')]) -> None:
    """out = e^x as the kernels compute it; for tests."""

def isa_levels() -> list[str]:
    """Names of this machine's levels, slowest first."""

def current_isa() -> str: ...

def set_isa(name: str) -> None: ...

def num_threads() -> int: ...

def set_num_threads(count: int) -> None: ...

def tunables() -> list[tuple[str, int, list[int], str, str]]:
    """
    (name, default, values, phase, meaning) of each number that kernels read.
    """

def tunable(name: str) -> int:
    """The value in force."""

def set_tunable(name: str, value: int) -> None:
    """Put one of its values in force; not while a kernel runs."""

def memory_bandwidth(seconds: float) -> float:
    """
    Bytes per second that all threads read from a 160 MB buffer, best pass.
    """

def rope_store(qkv: Annotated[NDArray, dict(device='cpu')], heads: tuple[int, int, int], cos_sin: tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)]], qk_norm: tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], float] | None, slots: Annotated[NDArray, dict(device='cpu', writable=False)], pages: tuple[Annotated[NDArray, dict(device='cpu')], Annotated[NDArray, dict(device='cpu')]]) -> None: ...

def attend(q: Annotated[NDArray, dict(device='cpu', writable=False)], heads: tuple[int, int, int], pages: tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)]], row_starts: Annotated[NDArray, dict(device='cpu', writable=False)], starts: Annotated[NDArray, dict(device='cpu', writable=False)], page_tables: Annotated[NDArray, dict(device='cpu', writable=False)], scale: float, out: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def mla_store(q: Annotated[NDArray, dict(device='cpu')], head_dims: tuple[int, int, int], kv_a: Annotated[NDArray, dict(device='cpu', writable=False)], norm: Annotated[NDArray, dict(device='cpu', writable=False)], eps: float, cos_sin: tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)]], interleaved: bool, slots: Annotated[NDArray, dict(device='cpu', writable=False)], pages: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def mla_attend_absorbed(q: Annotated[NDArray, dict(device='cpu', writable=False)], head_dims: tuple[int, int, int], w_uk: Matrix, w_uv: Matrix, pages: Annotated[NDArray, dict(device='cpu', writable=False)], row_starts: Annotated[NDArray, dict(device='cpu', writable=False)], starts: Annotated[NDArray, dict(device='cpu', writable=False)], page_tables: Annotated[NDArray, dict(device='cpu', writable=False)], scale: float, out: Annotated[NDArray, dict(device='cpu')]) -> None: ...

def mla_attend_expanded(q: Annotated[NDArray, dict(device='cpu', writable=False)], head_dims: tuple[int, int, int], kv_b: Matrix, pages: Annotated[NDArray, dict(device='cpu', writable=False)], row_starts: Annotated[NDArray, dict(device='cpu', writable=False)], starts: Annotated[NDArray, dict(device='cpu', writable=False)], page_tables: Annotated[NDArray, dict(device='cpu', writable=False)], scale: float, out: Annotated[NDArray, dict(device='cpu')]) -> None: ...

class GroupedQueryLayers:
    def __init__(self, layers: list, spec: object) -> None: ...

    def run(self, layers: tuple[int, int], x: Annotated[NDArray, dict(device='cpu')], arrays: tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], int], keys: Annotated[NDArray, dict(device='cpu')], values: Annotated[NDArray, dict(device='cpu')]) -> None: ...

class LatentLayers:
    def __init__(self, layers: list, spec: object, router: object | None) -> None: ...

    def run(self, layers: tuple[int, int], x: Annotated[NDArray, dict(device='cpu')], arrays: tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], int], pages: Annotated[NDArray, dict(device='cpu')]) -> None: ...

class Drafter:
    def __init__(self, module: object, spec: object, router: object | None) -> None: ...

    def run(self, token_ids: Annotated[NDArray, dict(device='cpu', writable=False)], hidden: Annotated[NDArray, dict(device='cpu', writable=False)], arrays: tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)], int], heads: Annotated[NDArray, dict(device='cpu', writable=False)], angles: tuple[Annotated[NDArray, dict(device='cpu', writable=False)], Annotated[NDArray, dict(device='cpu', writable=False)]], pages: Annotated[NDArray, dict(device='cpu')], tokens: Annotated[NDArray, dict(device='cpu')], states: Annotated[NDArray, dict(device='cpu')]) -> None: ...
