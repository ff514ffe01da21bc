"""What formats are chosen by, and the other text that the result is verified on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tribody.core.errors import BadConfig
from tribody.loading.download import sha256_of
from tribody.quality.answers import template_of
from tribody.quality.chunks import Chunk, task_chunks, text_chunks
from tribody.quality.held_out import Split, read_items
from tribody.quality.logits import LoadedModel
from tribody.quality.prose import Text

CONTEXT = 512  # tokens of a piece of text


@dataclass(frozen=True)
class Corpus:
    """Text cut into chunks; no chunk is in both parts."""

    name: str
    source: str
    sha256: str
    calibration: Sequence[Chunk]
    verification: Sequence[Chunk]


def prose_corpus(model: LoadedModel, text: Text, tokens: int) -> Corpus:
    """Chunks of a text in turn, `tokens` of either part.

    Raises: BadConfig when the text is too short.
    """
    context = min(CONTEXT, model.built.info.max_context_tokens)
    chunks = text_chunks(model, text.text, context, 2 * tokens)
    if len(chunks) < 2:
        raise BadConfig("the text is too short to calibrate and to verify on; give a longer --text")
    return Corpus("text", text.source, text.sha256, chunks[::2], chunks[1::2])


def task_corpus(model: LoadedModel, path: Path, tokens: int) -> Corpus:
    """Held-out tasks of a reasoner: the longer items calibrate, so that the others stay untouched.

    The model must have a chat template.
    """
    items = read_items(path)
    template = template_of(model)
    assert template is not None, "the bundled model has a chat template"

    def chunks(split: Split) -> list[Chunk]:
        chosen = [item for item in items if item.split == split]
        return task_chunks(model, template, chosen, tokens)

    return Corpus("tasks", "held-out items", sha256_of(path), chunks("longer"), chunks("held_out"))
