"""One prompt's logits, computed in five ways that must agree: through the shipped executor's
arrays and the shipped model, never through a copy of either."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tribody.core.config import KVFormat
from tribody.core.request import Chunk
from tribody.engine.model_executor import step_input
from tribody.memory.kv_store import KVStore
from tribody.models.step_input import Model

F32 = NDArray[np.float32]
NUM_PAGES = 64


def chunk(
    tokens: list[int], start: int, end: int, pages: list[int], *, generated: bool = False
) -> Chunk:
    used = pages[: -(-end // 64)]
    return Chunk(0, tokens[start:end], start, used, generated)


def run(model: Model, kv: KVStore, chunks: list[Chunk]) -> list[F32]:
    """All logits of every chunk."""
    lengths = [len(c.token_ids) for c in chunks]
    logits = model.forward(step_input(chunks, np.arange(sum(lengths))), kv)
    return np.split(logits.copy(), np.cumsum(lengths)[:-1])


def whole(model: Model, tokens: list[int], kv_format: KVFormat = "float32") -> F32:
    kv = KVStore(model.kv_layout, NUM_PAGES, kv_format)
    return run(model, kv, [chunk(tokens, 0, len(tokens), [5, 3, 9, 1])])[0]


def chunked(model: Model, tokens: list[int]) -> F32:
    kv = KVStore(model.kv_layout, NUM_PAGES, "float32")
    cuts = [0, 1, 7, 63, 66, len(tokens)]
    pages = [2, 8, 4, 6]
    parts = [run(model, kv, [chunk(tokens, a, b, pages)])[0] for a, b in itertools.pairwise(cuts)]
    return np.concatenate(parts)


def token_by_token(model: Model, tokens: list[int]) -> F32:
    """As generated tokens: latent attention takes its absorbed form."""
    kv = KVStore(model.kv_layout, NUM_PAGES, "float32")
    pages = [7, 0, 3, 2]
    parts = [
        run(model, kv, [chunk(tokens, i, i + 1, pages, generated=True)])[0]
        for i in range(len(tokens))
    ]
    return np.concatenate(parts)


def after_prefix_hit(model: Model, tokens: list[int]) -> F32:
    """The first page was computed by another sequence; the rest of it has no logits here."""
    kv = KVStore(model.kv_layout, NUM_PAGES, "float32")
    other = tokens[:64] + [1] * 20
    first = run(model, kv, [chunk(other, 0, len(other), [11, 12])])[0][:64]
    rest = run(model, kv, [chunk(tokens, 64, len(tokens), [11, 13, 14, 15])])[0]
    return np.concatenate([first, rest])


def among_eight_others(model: Model, tokens: list[int]) -> F32:
    """Prompts and generated tokens of others before, between and after, in two steps."""
    kv = KVStore(model.kv_layout, NUM_PAGES, "float32")
    size, cut = len(tokens), 40
    others = [tokens[i : i + 9 + 5 * i] for i in range(8)]
    tables = [[20 + 2 * i, 21 + 2 * i] for i in range(8)]
    pages = [50, 51, 52, 53]
    prompts = [chunk(o, 0, len(o) - 2, t) for o, t in zip(others, tables, strict=True)]
    first = run(model, kv, [*prompts[:3], chunk(tokens, 0, cut, pages), *prompts[3:]])[3]
    decodes = [
        chunk(o, len(o) - 2, len(o), t, generated=True)
        for o, t in zip(others[:5], tables, strict=False)
    ]
    late = [chunk(o, len(o) - 2, len(o), t) for o, t in zip(others[5:], tables[5:], strict=True)]
    second = run(model, kv, [*decodes, *late[:1], chunk(tokens, cut, size, pages), *late[1:]])[6]
    return np.concatenate([first, second])


WAYS: dict[str, Callable[[Model, list[int]], F32]] = {
    "whole": whole,
    "chunked": chunked,
    "token_by_token": token_by_token,
    "after_prefix_hit": after_prefix_hit,
    "among_eight_others": among_eight_others,
}
