"""Token ids of one choice back to text, split into reasoning and content, with their logprobs.

The engine ends a choice at a stop string; here the text is cut at it.  The token that ended a
choice (end of sequence, or one of the caller's stop ids) is counted but never shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tribody.core.request import Event, FinishReason, TokenLogprob
from tribody.text.detokenizer import TextStream
from tribody.text.reasoning import ReasoningSplitter

Section = Literal["reasoning", "content"]

LOGPROB_FLOOR = -9999.0  # stands for minus infinity, which JSON cannot hold


@dataclass(frozen=True, slots=True)
class Piece:
    """News of one choice: text of one section, or its end (then `text` is empty)."""

    choice: int
    section: Section
    text: str
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None = None


@dataclass
class ChoiceRenderer:
    """Events of one choice in, pieces out.  Text that is not yet certain is held back.

    `splitter` is None where `<think>` means nothing (completions, base models).
    """

    choice: int
    stream: TextStream
    splitter: ReasoningSplitter | None
    reasoning_tokens: int = 0
    num_tokens: int = 0
    _thinking: bool = False
    _pending: dict[Section, list[TokenLogprob]] = field(
        default_factory=lambda: {"reasoning": [], "content": []}
    )

    def push(self, event: Event) -> list[Piece]:
        shown = event.token_ids
        self.num_tokens += len(shown)
        if event.ended_by_token:
            shown = shown[:-1]
        texts = self._split(self.stream.push(shown))
        if event.finish_reason is not None:
            texts += self._split(self.stream.finish())
            texts += self.splitter.finish() if self.splitter else []
        self._count(event, texts, len(shown))
        pieces = [
            Piece(self.choice, section, text, self._take(section))
            for section, text in texts
            if text
        ]
        if event.finish_reason is not None:
            rest = self._take("content")
            pieces.append(Piece(self.choice, "content", "", rest, event.finish_reason))
        return pieces

    def _split(self, text: str) -> list[tuple[Section, str]]:
        if self.splitter is None:
            return [("content", text)]
        return self.splitter.push(text)

    def _count(self, event: Event, texts: list[tuple[Section, str]], num_shown: int) -> None:
        """Count this event's tokens to the section they ended in."""
        if texts:
            self._thinking = texts[-1][0] == "reasoning"
        if self._thinking:
            self.reasoning_tokens += len(event.token_ids)
        if event.logprobs is not None:
            section: Section = "reasoning" if self._thinking else "content"
            self._pending[section] += event.logprobs[:num_shown]

    def _take(self, section: Section) -> list[TokenLogprob]:
        taken = self._pending[section]
        self._pending[section] = []
        return taken


def finite(logprob: float) -> float:
    return max(logprob, LOGPROB_FLOOR)
