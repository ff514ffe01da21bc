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

import numpy as np

from tribody.core.config import PAGE_SIZE
from tribody.memory.kv_store import KVStore, latent_layout
from tribody.models.config import Latent, ModelConfig
from tribody.models.deepseek_v3 import DeepseekV3, layer_shapes, read_layer, spec_of
from tribody.models.step_input import StepInput
from tribody.models.weights import Shapes, WeightReader
from tribody.ops.composed import latent_drafter
from tribody.ops.layers import DraftModule, DraftRows
from tribody.ops.table import F32, I32, I64


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


class DeepseekMTP:
    """The module of a loaded DeepSeek-V3; shares its embedding, head and angles."""

    def __init__(self, model: DeepseekV3, weights: WeightReader) -> None:
        config = model.config
        assert isinstance(config.attention, Latent)
        latent, prefix = config.attention, f"model.layers.{config.num_hidden_layers}"
        self._model = model
        module = DraftModule(
            enorm=weights.vector(f"{prefix}.enorm.weight"),
            hnorm=weights.vector(f"{prefix}.hnorm.weight"),
            eh_proj=weights.matrix(f"{prefix}.eh_proj.weight"),
            layer=read_layer(config, weights, config.num_hidden_layers),
            norm=weights.vector(f"{prefix}.shared_head.norm.weight"),
            embed_tokens=model.vocabulary.embed_tokens,
            lm_head=model.vocabulary.lm_head,
        )
        self._stack = latent_drafter(weights.ops, module, spec_of(config))
        self.kv_layout = latent_layout(1, latent.kv_lora_rank, latent.qk_rope_head_dim)

    def hidden(self, rows: I64) -> F32:
        """See `step_input.Drafter.hidden`."""
        model = self._model
        hidden = model.hidden[rows]
        model.ops.rms_norm(hidden, model.vocabulary.norm, model.config.rms_norm_eps, hidden)
        return hidden

    def draft(self, step: StepInput, hidden: F32, passes: int, kv: KVStore) -> tuple[I32, F32]:
        """See `step_input.Drafter.draft`."""
        model, heads = self._model, step.logit_rows
        tokens = np.empty((passes, len(heads)), np.int32)
        angles = model.rope.table(step.batch.page_tables.shape[1] * PAGE_SIZE)
        rows = DraftRows(step.token_ids, model.step_rows(step), heads, angles)
        (pages,) = kv.arrays
        return tokens, self._stack.run(hidden, rows, pages, tokens)
