"""One model in float32 whose matrices are exchanged, one or all, and what that costs its logits.

Latent attention has two forms with matrices of their own: text is run in both, one piece as a
prompt and the next as if it had been generated.  Keys and values are float32, so that only weights
differ.

Memory: the weights in float32 once, and rounded ones beside them; second moments of the inputs (of
SmolLM2 0.4 GB); for a reading its states, and its log-probabilities at every EVERYth token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tribody.core.config import PAGE_SIZE, WeightFormat
from tribody.core.request import Chunk
from tribody.engine.model_executor import step_input
from tribody.loading.checkpoint import open_checkpoint
from tribody.memory.kv_store import KVStore
from tribody.models.config import ModelConfig
from tribody.models.load import has_drafter, load_model
from tribody.models.step_input import StepInput
from tribody.ops.table import F32, Matrix, Ops
from tribody.quality.chunks import Chunk as Piece
from tribody.tuning.divergence import divergence, log_softmax
from tribody.tuning.trial_ops import TrialMatrix, TrialOps

Progress = Callable[[int, int], None]

EVERY = 2
# Logits are compared at every second token: neighbours are wrong together, and SmolLM2's head takes
# as long as a quarter of its layers, its softmax as long again.


@dataclass(slots=True)
class Reading:
    """One piece of text and how it ran in float32.

    `states[i]` (T, H) is the residual stream before layer i, `states[-1]` behind the last one;
    `log_probs` (R, V) are those of every EVERYth predicted token.
    """

    step: StepInput
    kv: KVStore
    states: list[F32] = field(default_factory=list)
    log_probs: F32 = field(default_factory=lambda: np.empty((0, 0), np.float32))


class Trial:
    """A model loaded for exchanging.  `matrices`: those whose format is free, by name."""

    def __init__(self, path: Path, ops: Ops, progress: Progress | None = None) -> None:
        self._ops = TrialOps(ops)
        with closing(open_checkpoint(path)) as checkpoint:
            self.name, self.fingerprint = checkpoint.name, checkpoint.fingerprint
            drafter = has_drafter(checkpoint)
            self._model = load_model(checkpoint, self._ops, "float32", progress, drafter=drafter)
        self.weights = self._model.weights
        self.matrices: dict[str, TrialMatrix] = {}
        for name, matrix in self.weights.matrices.items():
            assert isinstance(matrix, TrialMatrix)
            if name not in self.weights.prescribed:
                self.matrices[name] = matrix
        self._num_layers = self._model.config.num_hidden_layers

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def prescribed_bytes(self) -> int:
        """Bytes of all that is not free to choose: vectors, and matrices such as routers."""
        free = sum(matrix.num_bytes for matrix in self.matrices.values())
        return self.weights.num_bytes - free

    def first_layer(self, name: str) -> int | None:
        """The first layer that a matrix works in: -1 is the embedding, the number of layers the
        head; None for a drafter's matrix, which logits do not depend on."""
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer is None:
            return -1 if name == "model.embed_tokens" else self._num_layers
        return int(layer[1]) if int(layer[1]) < self._num_layers else None

    def work(self, name: str) -> float:
        """Weights of a matrix that one generated token meets: of a stack those of its experts."""
        config, matrix = self._model.config, self.matrices[name]
        first = self.first_layer(name)
        if first is None or (first < 0 and not config.tie_word_embeddings):
            return 0.0  # drafts are not counted, and of an embedding one row is read
        if name.endswith(".kv_b_proj"):
            return 0.0  # prompts use it; generated tokens, what is derived from it
        share = 1.0
        if len(matrix.shape) == 3 and ".experts." in name:
            assert config.experts is not None
            share = config.experts.router.top_k / matrix.shape[0]
        return share * math.prod(matrix.shape)

    def values(self, name: str) -> F32:
        """A matrix's numbers in float32, a fresh array."""
        return self._ops.values(self.matrices[name])

    def replace(self, name: str, values: F32, factors: F32 | None = None) -> None:
        """Other numbers for a matrix, whose inputs are divided by `factors`, (K,) or (E, K), from
        now on; None: they stay."""
        self.matrices[name].replace(self._ops.inner.pack(values, "float32"), factors)

    def rounded(self, name: str, weight_format: WeightFormat) -> Matrix:
        """A matrix rounded plainly."""
        return self._ops.inner.pack(self.values(name), weight_format)

    def observe(self, piece: Piece, *, generated: bool) -> None:
        """Run a piece with the matrices as they were loaded; each sums up the inputs it meets."""
        step, kv = self._begin(piece, generated=generated)
        self._ops.observing = True
        x = self._model.embed(step)
        self._model.run_layers(range(self._num_layers), x, step, kv)
        self._model.logits(x, step)
        self._ops.observing = False

    def read(self, piece: Piece, *, generated: bool) -> Reading:
        """Run a piece with the matrices as they are now (float32) and keep what it gave."""
        reading = Reading(*self._begin(piece, generated=generated))
        x = self._model.embed(reading.step)
        for layer in range(self._num_layers):
            reading.states.append(x.copy())
            self._model.run_layers(range(layer, layer + 1), x, reading.step, reading.kv)
        reading.states.append(x.copy())
        reading.log_probs = log_softmax(self._model.logits(x, reading.step))
        return reading

    def _begin(self, piece: Piece, *, generated: bool) -> tuple[StepInput, KVStore]:
        token_ids = piece.token_ids[:-1]
        num_pages = -(-len(token_ids) // PAGE_SIZE)
        chunk = Chunk(
            sequence_id=0,
            token_ids=token_ids,
            start=0,
            page_table=list(range(num_pages)),
            generated=generated,
        )
        step = step_input([chunk], np.arange(piece.first - 1, len(token_ids), EVERY))
        return step, KVStore(self._model.kv_layout, num_pages, "float32")

    def divergence(self, readings: Sequence[Reading], first_layer: int) -> float:
        """Mean KL to the readings, nats per token, of the matrices as they are now.

        All matrices used before `first_layer` must be those that the readings were made with.
        """
        total, count = 0.0, 0
        for reading in readings:
            step = reading.step
            x = self._model.embed(step)
            if first_layer >= 0:
                x[:] = reading.states[first_layer]
            layers = range(max(first_layer, 0), self._num_layers)
            self._model.run_layers(layers, x, step, reading.kv)
            total += divergence(reading.log_probs, self._model.logits(x, step)).sum()
            count += len(reading.log_probs)
        return float(total / count)
