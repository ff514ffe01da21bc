"""Prompts for a text between two others, with the control tokens that a vocabulary has for it.

Sources: DeepSeek-Coder's README (begin, prefix, hole, suffix, end); Qwen2.5-Coder's and StarCoder's
(prefix, suffix, middle).  The two texts are only text: control tokens written in them stay text.
"""

from __future__ import annotations

from dataclasses import dataclass

from tribody.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Markers:
    """What stands before the first text, between the two, and after the second."""

    before: str
    between: str
    after: str


MARKERS = (
    Markers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Markers("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)


def fill_in_middle(tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int] | None:
    """The prompt whose continuation belongs between the two; None: this vocabulary has no way.

    Raises: BadRequest for text that cannot be tokenized.
    """
    for markers in MARKERS:
        ids = [
            tokenizer.token_id(token) for token in (markers.before, markers.between, markers.after)
        ]
        before, between, after = ids
        if before is None or between is None or after is None:
            continue
        frame = tokenizer.encode("", add_special_tokens=True)
        first, second = (
            tokenizer.encode(text, add_special_tokens=False, parse_special=False)
            for text in (prefix, suffix)
        )
        return [*frame, before, *first, between, *second, after]
    return None
