"""The token chunks that logits are compared on: pieces of a text, and reference solutions.

A chunk is one sequence of its own, so memory is bounded by the longest, and chunks are the units
that the bootstrap draws.
"""

from __future__ import annotations

from dataclasses import dataclass

from tribody.core.errors import BadConfig
from tribody.quality.answers import render
from tribody.quality.held_out import Item, spread
from tribody.quality.logits import LoadedModel
from tribody.text.chat_template import ChatTemplate
from tribody.text.reasoning import prompt_opens_thinking
from tribody.text.special_tokens import special_token_strings


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens at positions [first, T) are predicted, each from all before it; first >= 1."""

    token_ids: list[int]
    first: int

    @property
    def num_predicted(self) -> int:
        return len(self.token_ids) - self.first


def text_chunks(model: LoadedModel, text: str, context: int, max_tokens: int) -> list[Chunk]:
    """`text` cut into chunks of `context` tokens, the model's bos (if it has one) counted.

    At most `max_tokens` tokens of the text are used.  Every token is predicted but the first of a
    chunk where there is no bos.  A last piece too short to predict anything is left out.
    Raises: BadConfig when nothing is left.
    """
    tokenizer = model.built.tokenizer
    framed = tokenizer.encode("", add_special_tokens=True)
    prefix = [token for token in framed if token == tokenizer.bos_token_id]
    tokens = tokenizer.encode(text, add_special_tokens=False)[:max_tokens]
    step = context - len(prefix)
    first = max(1, len(prefix))
    chunks = [
        Chunk(prefix + tokens[start : start + step], first) for start in range(0, len(tokens), step)
    ]
    chunks = [chunk for chunk in chunks if chunk.num_predicted > 0]
    if not chunks:
        raise BadConfig(
            f"the text has {len(tokens)} tokens; at least 2 are needed: name a longer file with "
            "--text"
        )
    return chunks


def task_chunks(
    model: LoadedModel, template: ChatTemplate, items: list[Item], max_tokens: int
) -> list[Chunk]:
    """Each item's prompt with its reference solution, of which every token is predicted.

    The solution is what a reasoning model writes: thinking, `</think>`, answer, end of sequence.
    Tasks take turns, and the last chunk is the one before `max_tokens` would be passed.  An item
    that is longer than the model's context is left out.
    """
    built = model.built
    end = special_token_strings(built.tokenizer_source).get("eos_token", "")
    chunks: list[Chunk] = []
    total = 0
    for index in spread(items):
        item = items[index]
        prompt = render(template, item)
        opening = "" if prompt_opens_thinking(prompt) else "<think>\n"
        solution = f"{opening}{item.thinking}\n</think>\n\n{item.answer}{end}"
        before = built.tokenizer.encode(prompt, add_special_tokens=False)
        after = built.tokenizer.encode(solution, add_special_tokens=False)
        if not before or len(before) + len(after) > built.info.max_context_tokens:
            continue
        total += len(before) + len(after)
        if total > max_tokens:
            break
        chunks.append(Chunk(before + after, len(before)))
    return chunks
