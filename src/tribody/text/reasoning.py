"""A reasoning model's thinking: closed before it begins, or split from the answer as it streams.

The output is `thinking</think>answer`, with `<think>` before it unless the prompt already ended in
it.  The rules, which are DeepSeek's API as seen from outside:

* `<think>` opens thinking only as the first thing of the output (white space before it is
  dropped with it); later it is ordinary text, so an answer may speak about the tag.
* the first `</think>` closes it; all that follows is the answer, later tags included.
* line breaks at the start of either part are dropped: models write `<think>\\n` and
  `</think>\\n\\n`, and the API shows neither.
* thinking that never closes (cut off by max_tokens) is thinking to the end.
"""

from __future__ import annotations

from typing import Literal

Part = Literal["reasoning", "content"]

OPEN = "<think>"
CLOSE = "</think>"


def prompt_opens_thinking(rendered_prompt: str) -> bool:
    """True when the chat template ended the prompt inside an open `<think>`."""
    return rendered_prompt.rstrip().endswith(OPEN)


def close_thinking(rendered_prompt: str) -> str:
    """The prompt with its open `<think>` closed at once; a prompt without one as it is.

    `<think>\\n\\n</think>\\n\\n` is how R1 is kept from thinking, for which its template has no
    switch, and what Qwen3's template writes for the same wish.
    """
    if not prompt_opens_thinking(rendered_prompt):
        return rendered_prompt
    return f"{rendered_prompt.rstrip()}\n\n{CLOSE}\n\n"


class ReasoningSplitter:
    """Feed it text in any pieces; it returns the same text, labelled.

    No piece ever holds both kinds, and the labelled text does not depend on the pieces.
    """

    def __init__(self, *, thinking: bool) -> None:
        self._stage: Literal["start", "thinking", "answer"] = "thinking" if thinking else "start"
        self._held = ""
        self._at_start = thinking  # of a part whose leading line breaks are dropped

    def push(self, text: str) -> list[tuple[Part, str]]:
        """The labelled text that is now certain; what may be part of a tag waits."""
        self._held += text
        pieces: list[tuple[Part, str]] = []
        if self._stage == "start":
            self._decide_start(pieces)
        if self._stage == "thinking":
            self._read_thinking(pieces)
        if self._stage == "answer":
            self._emit("content", self._held, pieces)
            self._held = ""
        return pieces

    def finish(self) -> list[tuple[Part, str]]:
        """The rest: what looked like the beginning of a tag was text after all."""
        pieces: list[tuple[Part, str]] = []
        part: Part = "reasoning" if self._stage == "thinking" else "content"
        self._emit(part, self._held, pieces)
        self._held = ""
        return pieces

    def _decide_start(self, pieces: list[tuple[Part, str]]) -> None:
        begun = self._held.lstrip()
        if begun.startswith(OPEN):
            self._stage = "thinking"
            self._held = begun[len(OPEN) :]
            self._at_start = True
        elif not OPEN.startswith(begun):
            self._stage = "answer"

    def _read_thinking(self, pieces: list[tuple[Part, str]]) -> None:
        before, tag, after = self._held.partition(CLOSE)
        if tag:
            self._emit("reasoning", before, pieces)
            self._stage = "answer"
            self._held = after
            self._at_start = True
            return
        keep = _overlap(self._held, CLOSE)
        self._emit("reasoning", self._held[: len(self._held) - keep], pieces)
        self._held = self._held[len(self._held) - keep :]

    def _emit(self, part: Part, text: str, pieces: list[tuple[Part, str]]) -> None:
        if self._at_start:
            text = text.lstrip("\n")
        if text:
            self._at_start = False
            pieces.append((part, text))


def _overlap(text: str, tag: str) -> int:
    """The length of the longest end of `text` that begins `tag` without being all of it."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[len(text) - length :]):
            return length
    return 0
