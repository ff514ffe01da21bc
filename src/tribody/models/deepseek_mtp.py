"""DeepSeek-V3's multi-token-prediction module: drafts the token after the next one.

It is one more decoder layer, numbered after the last.  Row t joins the embedding of token t + 1
with the trunk's hidden state h_t and predicts token t + 2; embedding and head are the trunk's, and
the copies of them in a checkpoint are not read.  Its latents stand in pages of their own under the
trunk's page numbers, row t at position t.

h_t is the trunk's output after its final norm, as in the script that DeepSeek ships with the
weights and in vLLM; to draft further the module is fed its own output, normed likewise.  A module
that was trained on h_t before the norm, as mini-r1's was, drafts as well to within 0.3 %.

What it drafts is only ever a guess: it decides how fast tokens come, never which.  So nothing here
is held to the exactness of the trunk.  Source: DeepSeek-V3 report, section 2.2; parity test:
tests/parity/test_mini_r1.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tribody.memory.kv_store import KVStore, latent_layout
from tribody.models.config import Latent, ModelConfig
from tribody.models.deepseek_v3 import DeepseekV3, layer_shapes, read_layer, spec_of
from tribody.models.step_input import StepInput
from tribody.models.weights import Shapes, WeightReader
from tribody.ops.composed import latent_layers
from tribody.ops.table import F32, I32, I64, Matrix


def main_tensor(config: ModelConfig) -> str:
    """The tensor that no other layer has."""
    return f"model.layers.{config.num_hidden_layers}.eh_proj.weight"


def tensor_shapes(config: ModelConfig) -> Shapes:
    """The tensors of the first module; checkpoints with more than one are read that far."""
    layer, hidden = f"model.layers.{config.num_hidden_layers}", config.hidden_size
    yield f"{layer}.enorm.weight", (hidden,)
    yield f"{layer}.hnorm.weight", (hidden,)
    yield f"{layer}.eh_proj.weight", (hidden, 2 * hidden)
    yield f"{layer}.shared_head.norm.weight", (hidden,)
    yield from layer_shapes(config, config.num_hidden_layers)


@dataclass(frozen=True, slots=True)
class _Weights:
    enorm: F32
    hnorm: F32
    eh_proj: Matrix
    shared_head_norm: F32


class DeepseekMTP:
    """The module of a loaded DeepSeek-V3; shares its embedding, head, angles and scratch."""

    def __init__(self, model: DeepseekV3, weights: WeightReader) -> None:
        config = model.config
        assert isinstance(config.attention, Latent)
        latent, prefix = config.attention, f"model.layers.{config.num_hidden_layers}"
        self._model = model
        self._weights = _Weights(
            enorm=weights.vector(f"{prefix}.enorm.weight"),
            hnorm=weights.vector(f"{prefix}.hnorm.weight"),
            eh_proj=weights.matrix(f"{prefix}.eh_proj.weight"),
            shared_head_norm=weights.vector(f"{prefix}.shared_head.norm.weight"),
        )
        layer = read_layer(config, weights, config.num_hidden_layers)
        self._stack = latent_layers(weights.ops, [layer], spec_of(config))
        self.kv_layout = latent_layout(1, latent.kv_lora_rank, latent.qk_rope_head_dim)

    def hidden(self, rows: I64) -> F32:
        """See `step_input.Drafter.hidden`."""
        model = self._model
        hidden = model.hidden[rows]
        model.ops.rms_norm(hidden, model.vocabulary.norm, model.config.rms_norm_eps, hidden)
        return hidden

    def draft(self, step: StepInput, hidden: F32, kv: KVStore) -> tuple[I32, F32]:
        """See `step_input.Drafter.draft`."""
        model, weights, config = self._model, self._weights, self._model.config
        ops, scratch, eps = model.ops, model.scratch, config.rms_norm_eps
        num_rows, size = hidden.shape
        joined = scratch.rows("drafter joined", num_rows, 2 * size)
        embedded, seen = joined[:, :size], joined[:, size:]
        ops.embed(model.vocabulary.embed_tokens, step.token_ids, embedded)
        ops.rms_norm(embedded, weights.enorm, eps, embedded)
        ops.rms_norm(hidden, weights.hnorm, eps, seen)
        x = scratch.rows("drafter x", num_rows, size)
        ops.linear(joined, weights.eh_proj, None, None, x)
        self._stack.run(range(1), x, model.step_rows(step), kv.arrays)
        last = x[step.logit_rows]
        normed = np.empty_like(last)
        logits = scratch.rows("logits", len(last), config.vocab_size)
        tokens = np.empty(len(last), np.int32)
        if len(last):
            ops.rms_norm(last, weights.shared_head_norm, eps, normed)
            ops.linear(normed, model.vocabulary.lm_head, None, None, logits)
            ops.argmax(logits, tokens)
        return tokens, normed
