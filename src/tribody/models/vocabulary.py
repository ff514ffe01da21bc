"""Where tokens enter and leave a model: the embedding, the final norm and the head.

Every family has these three in the same form and under the same names.
"""

from __future__ import annotations

from tribody.models.config import ModelConfig
from tribody.models.step_input import StepInput, mark_unusable
from tribody.models.weights import Shapes, WeightReader
from tribody.ops.scratch import Scratch
from tribody.ops.table import F32, I64, Ops


def tensor_shapes(config: ModelConfig) -> Shapes:
    """The tensors that are read here, with their shapes."""
    yield "model.embed_tokens.weight", (config.vocab_size, config.hidden_size)
    yield "model.norm.weight", (config.hidden_size,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, config.hidden_size)


def skipped_tensors(config: ModelConfig) -> tuple[str, ...]:
    """A tied head that is stored again is the embedding; it is not read."""
    return (r"^lm_head\.weight$",) if config.tie_word_embeddings else ()


class Vocabulary:
    """`embed` begins a forward pass, `logits` ends it; a tied head is the embedding itself."""

    def __init__(self, config: ModelConfig, weights: WeightReader) -> None:
        self._config = config
        self._ops: Ops = weights.ops
        self.embed_tokens = weights.matrix("model.embed_tokens.weight")
        self.norm = weights.vector("model.norm.weight")
        self.lm_head = (
            self.embed_tokens if config.tie_word_embeddings else weights.matrix("lm_head.weight")
        )

    def embed(self, step: StepInput, scratch: Scratch) -> F32:
        """The residual stream (T, hidden_size) of the step's tokens, in a scratch buffer."""
        x = scratch.rows("x", len(step.token_ids), self._config.hidden_size)
        self._ops.embed(self.embed_tokens, step.token_ids, x)
        return x

    def normed(self, x: F32, rows: I64) -> F32:
        """These rows (R, hidden_size) of the residual stream behind the final norm, a new array."""
        wanted = x[rows]
        self._ops.rms_norm(wanted, self.norm, self._config.rms_norm_eps, wanted)
        return wanted

    def logits(self, x: F32, step: StepInput, scratch: Scratch) -> F32:
        """The wanted rows' logits (R, V), in a scratch buffer; see `Model.forward`."""
        wanted = x[step.logit_rows]
        logits = scratch.rows("logits", len(wanted), self._config.vocab_size)
        if len(wanted):
            eps = self._config.rms_norm_eps
            self._ops.norm_linear(wanted, self.norm, eps, self.lm_head, None, logits)
            mark_unusable(wanted, logits)
        return logits
