"""What a step must read and multiply, from a model's shapes: the same for every engine.

Counts of weights, not bytes: an engine's bytes are these times its bits per weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cells import Cell
from tribody.models.config import Experts, GroupedQuery, Latent, ModelConfig
from tribody.models.load import family_of

KV_BYTES = 2  # float16, in every engine but transformers


@dataclass(frozen=True, slots=True)
class Work:
    """Of one cell.  `weights` and `kv_bytes` are read by one step of a decode, 0 for a prefill;
    `macs` are the multiply-adds of all timed products with weights (attention not counted)."""

    weights: int
    kv_bytes: int
    macs: int


def num_weights(config: ModelConfig) -> int:
    """Of the whole model."""
    return sum(math.prod(shape) for _, shape in family_of(config).tensor_shapes(config))


def work_of(config: ModelConfig, cell: Cell) -> Work:
    body, head, routed = _count(config)
    share = _share(config.experts, 1)
    per_token = body + round(routed * share)
    if cell.kind == "prefill":
        return Work(0, 0, cell.depth * per_token + head)
    # On average a sequence is half its steps deeper than at the start.
    positions = cell.batch * (cell.depth + cell.steps / 2)
    return Work(
        weights=body + head + round(routed * _share(config.experts, cell.batch)),
        kv_bytes=round(positions * kv_token_bytes(config)),
        macs=cell.steps * cell.batch * (per_token + head),
    )


def _count(config: ModelConfig) -> tuple[int, int, int]:
    """Weights of the layers but for routed experts, of the head, of routed experts.

    The embedding is not read but for a row a token, unless it is the head as well.
    """
    body = head = routed = 0
    for name, shape in family_of(config).tensor_shapes(config):
        count = math.prod(shape)
        if name == "lm_head.weight" or (
            config.tie_word_embeddings and name == "model.embed_tokens.weight"
        ):
            head += count
        elif ".mlp.experts." in name:
            routed += count
        elif name != "model.embed_tokens.weight":
            body += count
    return body, head, routed


def _share(experts: Experts | None, num_tokens: int) -> float:
    """Of the routed experts, those that some of the tokens choose, if they choose evenly."""
    if experts is None:
        return 0.0
    return 1 - (1 - experts.router.top_k / experts.n_routed_experts) ** num_tokens


def kv_token_bytes(config: ModelConfig) -> int:
    """Of keys and values of one token, in all layers."""
    attention = config.attention
    if isinstance(attention, GroupedQuery):
        values = 2 * attention.num_key_value_heads * attention.head_dim
    else:
        assert isinstance(attention, Latent)
        values = attention.kv_lora_rank + attention.qk_rope_head_dim
    return config.num_hidden_layers * values * KV_BYTES
