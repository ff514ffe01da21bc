"""Where each Hugging Face tensor lies in a GGUF file: names, permutations, stacks and splits.

A source gives the shape of one HF tensor, reads ranges of its rows, and gives a matrix's stored
numbers as they are where a run-time format holds them.  The four kinds:

    Plain       stored as it is
    Permuted    llama's q and k: the converter reorders each head's rows from halves (x_i, x_i+d/2)
                to pairs; the order is undone here
    Expert      one matrix of a stack of experts
    SplitKv     deepseek2's kv_b_proj, stored as attn_k_b (per head, transposed) and attn_v_b
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tribody.core.errors import BadModel
from tribody.loading.gguf_file import GgufFile, GgufTensor
from tribody.loading.stored_codes import Codes, all_finite, codes_of

F32 = NDArray[np.float32]


class Source(Protocol):
    """One HF tensor somewhere in GGUF files."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, first: int, count: int) -> F32:
        """Rows [first, first + count) of the first axis; the range has been checked."""
        ...

    def codes(self) -> Codes | None:
        """The whole matrix in its stored numbers, or None."""
        ...


@dataclass(frozen=True)
class Stored:
    """A tensor and the file that holds it."""

    file: GgufFile
    tensor: GgufTensor

    def error(self, text: str) -> BadModel:
        return BadModel(f"{self.file.file.path}: tensor {self.tensor.name!r}: {text}")

    def raw(self, first: int, count: int) -> NDArray[np.uint8]:
        """Rows as they are stored, (count, bytes of a row)."""
        return self.file.raw_rows(self.tensor, first, count)

    def codes(self, rows: NDArray[np.uint8]) -> Codes | None:
        """Rows of this tensor, in whatever order, as codes of a run-time format."""
        found = codes_of(self.tensor.kind.name, rows)
        if found is not None and not all_finite(found):
            raise self.error(
                "holds values that are not finite numbers; the file is damaged: download it again"
            )
        return found


@dataclass(frozen=True)
class Plain:
    stored: Stored

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.tensor.shape

    def read(self, first: int, count: int) -> F32:
        tensor = self.stored.tensor
        if len(tensor.shape) == 1:
            # One contiguous row; blocks forbid reading a part of it, and vectors are small.
            return self.stored.file.read_rows(tensor, 0, 1).reshape(-1)[first : first + count]
        inner = int(np.prod(tensor.shape[1:-1]))
        rows = self.stored.file.read_rows(tensor, first * inner, count * inner)
        return rows.reshape(count, *tensor.shape[1:])

    def codes(self) -> Codes | None:
        return self.stored.codes(self.stored.raw(0, self.shape[0]))


@dataclass(frozen=True)
class Permuted:
    """Rows of each of `heads` heads: file row 2 i + h is HF row h d/2 + i, d rows a head."""

    plain: Plain
    heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.plain.shape

    def read(self, first: int, count: int) -> F32:
        # Whole heads are read, since a head's rows are spread over the whole head.
        per_head = self.shape[0] // self.heads
        first_head, stop_head = first // per_head, -(-(first + count) // per_head)
        num_heads = stop_head - first_head
        rows = _to_halves(self.plain.read(first_head * per_head, num_heads * per_head), num_heads)
        start = first - first_head * per_head
        return np.ascontiguousarray(rows[start : start + count])

    def codes(self) -> Codes | None:
        stored = self.plain.stored
        return stored.codes(_to_halves(stored.raw(0, self.shape[0]), self.heads))


def _to_halves(rows: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """Rows of whole heads, from pairs to halves."""
    pairs = rows.reshape(num_heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


@dataclass(frozen=True)
class Expert:
    stored: Stored
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.tensor.shape[1:]

    def read(self, first: int, count: int) -> F32:
        start = self.index * self.shape[0] + first
        return self.stored.file.read_rows(self.stored.tensor, start, count)

    def codes(self) -> Codes | None:
        num_rows = self.shape[0]
        return self.stored.codes(self.stored.raw(self.index * num_rows, num_rows))


@dataclass(frozen=True)
class SplitKv:
    """k_b (heads, rank, nope) and v_b (heads, v, rank) as (heads * (nope + v), rank)."""

    k_b: Plain
    v_b: Plain

    @property
    def shape(self) -> tuple[int, ...]:
        heads, rank, nope = self.k_b.shape
        return (heads * (nope + self.v_b.shape[1]), rank)

    def read(self, first: int, count: int) -> F32:
        heads, rank, _ = self.k_b.shape
        per_head = self.shape[0] // heads
        first_head, stop_head = first // per_head, -(-(first + count) // per_head)
        num_heads = stop_head - first_head
        keys = self.k_b.read(first_head, num_heads).transpose(0, 2, 1)
        values = self.v_b.read(first_head, num_heads)
        rows = np.concatenate([keys, values], axis=1).reshape(num_heads * per_head, rank)
        start = first - first_head * per_head
        return np.ascontiguousarray(rows[start : start + count])

    def codes(self) -> Codes | None:
        return None  # keys are stored along another axis


_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IGNORED = frozenset({"rope_freqs.weight"})  # read by gguf_config
_IGNORED_PARTS = frozenset({"attn_rot_embd"})  # rotary tables of old files; they follow from theta

_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_output": "self_attn.o_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_DEEPSEEK = _ATTENTION | {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
    "nextn.eh_proj": "eh_proj",
    "nextn.enorm": "enorm",
    "nextn.hnorm": "hnorm",
    "nextn.embed_tokens": "embed_tokens",
    "nextn.shared_head_norm": "shared_head.norm",
    "nextn.shared_head_head": "shared_head.head",
}
_STACKS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
_LAYER = re.compile(r"blk\.(\d{1,5})\.(.+)\.(weight|bias)")


def build_sources(
    architecture: str, tensors: Mapping[str, Stored], config: Mapping[str, object]
) -> dict[str, Source]:
    """HF name -> source for every tensor, in file order.

    Raises: BadModel for a tensor that has no place in the architecture: ignoring it could change
    what the model computes.
    """
    sources: dict[str, Source] = {}
    for name, stored in tensors.items():
        if name in _IGNORED:
            continue
        if name in _TOP:
            sources[_TOP[name]] = Plain(stored)
            continue
        match = _LAYER.fullmatch(name)
        if match is None:
            raise _no_place(stored, architecture)
        layer, part, kind = f"model.layers.{int(match[1])}.", match[2], match[3]
        if part in _IGNORED_PARTS:
            continue
        if architecture == "deepseek2":
            special = _deepseek_sources(layer, part, kind, stored, tensors)
            if special is not None:
                sources |= special
                continue
        hf = (_DEEPSEEK if architecture == "deepseek2" else _ATTENTION).get(part)
        if hf is None:
            raise _no_place(stored, architecture)
        source: Source = Plain(stored)
        if architecture == "llama" and part in ("attn_q", "attn_k"):
            heads = "num_attention_heads" if part == "attn_q" else "num_key_value_heads"
            source = _permuted(stored, config[heads])
        sources[f"{layer}{hf}.{kind}"] = source
    return sources


def _no_place(stored: Stored, architecture: str) -> BadModel:
    return stored.error(f"is not known for architecture {architecture}; the model is not supported")


def _permuted(stored: Stored, heads: object) -> Permuted:
    rows = stored.tensor.shape[0]
    assert isinstance(heads, int)
    if rows % (2 * heads):
        raise stored.error(f"{rows} rows are no multiple of twice its {heads} heads")
    return Permuted(Plain(stored), heads)


def _deepseek_sources(
    layer: str, part: str, kind: str, stored: Stored, tensors: Mapping[str, Stored]
) -> dict[str, Source] | None:
    """Sources of the parts that are not one tensor for one; None for the others."""
    if part == "exp_probs_b":
        return {f"{layer}mlp.gate.e_score_correction_bias": Plain(stored)}
    if part in _STACKS:
        if len(stored.tensor.shape) != 3:
            raise stored.error(f"shape {stored.tensor.shape} must be (experts, rows, columns)")
        return {
            f"{layer}mlp.experts.{index}.{_STACKS[part]}.{kind}": Expert(stored, index)
            for index in range(stored.tensor.shape[0])
        }
    if part in ("attn_k_b", "attn_v_b"):
        prefix = stored.tensor.name.removesuffix(f"{part}.{kind}")
        if f"{prefix}attn_kv_b.weight" in tensors:
            return {}  # some files hold the matrix both whole and split; the whole one is used
        other = tensors.get(f"{prefix}{'attn_v_b' if part == 'attn_k_b' else 'attn_k_b'}.{kind}")
        if other is None:
            raise stored.error("attn_k_b and attn_v_b must come together")
        k_b, v_b = (stored, other) if part == "attn_k_b" else (other, stored)
        shapes = k_b.tensor.shape, v_b.tensor.shape
        if [len(s) for s in shapes] != [3, 3] or shapes[0][:2] != (shapes[1][0], shapes[1][2]):
            raise stored.error(f"attn_k_b {shapes[0]} and attn_v_b {shapes[1]} do not fit")
        return {f"{layer}self_attn.kv_b_proj.{kind}": SplitKv(Plain(k_b), Plain(v_b))}
    return None
