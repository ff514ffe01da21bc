"""Token ids of one choice back to text, split into reasoning and content, with their logprobs.

The engine ends a choice at a stop string; here the text is cut at it.  The token that ended a
choice (end of sequence, or one of the caller's stop ids) is counted but never shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

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

    `splitter` is None where `<think>` means nothing (completions, base models); `section` is what
    the first token belongs to, None while that shows only from the text.
    """

    choice: int
    stream: TextStream
    splitter: ReasoningSplitter | None
    section: Section | None = "content"
    reasoning_tokens: int = 0
    _num_unlabelled: int = 0
    _unlabelled: list[TokenLogprob] = field(default_factory=list)
    _pending: dict[Section, list[TokenLogprob]] = field(
        default_factory=lambda: {"reasoning": [], "content": []}
    )

    def push(self, event: Event) -> list[Piece]:
        """The pieces that are certain now; after the last event, all of them.

        Tokens that come together are counted to their sections one by one, as if they had not.
        """
        pieces: list[Piece] = []
        for one in _single(event):
            pieces += self._push(one)
        return _joined(pieces)

    def _push(self, event: Event) -> list[Piece]:
        shown = event.token_ids[:-1] if event.ended_by_token else event.token_ids
        texts = self._split(self.stream.push(shown))
        if event.finish_reason is not None:
            texts += self._split(self.stream.finish())
            texts += self.splitter.finish() if self.splitter else []
        self._label(event, texts, len(shown))
        pieces = [
            Piece(self.choice, section, text, self._take(section))
            for section, text in texts
            if text
        ]
        if self.section == "content" and self._pending["reasoning"]:
            # Tokens of a closing tag: they have probabilities but no text.
            pieces.insert(0, Piece(self.choice, "reasoning", "", self._take("reasoning")))
        if event.finish_reason is not None:
            rest = self._take(self.section or "content")
            section = self.section if self.section and rest else "content"
            pieces.append(Piece(self.choice, section, "", rest, event.finish_reason))
        return pieces

    def _split(self, text: str) -> list[tuple[Section, str]]:
        if self.splitter is None:
            return [("content", text)]
        return self.splitter.push(text)

    def _label(self, event: Event, texts: list[tuple[Section, str]], num_shown: int) -> None:
        """Count this event's tokens, and those still waiting, to the section they ended in."""
        if texts:
            self.section = texts[-1][0]
        elif event.finish_reason is not None:
            self.section = self.section or "content"
        self._num_unlabelled += len(event.token_ids)
        if event.logprobs is not None:
            self._unlabelled += event.logprobs[:num_shown]
        if self.section is None:
            return
        if self.section == "reasoning":
            self.reasoning_tokens += self._num_unlabelled
        self._pending[self.section] += self._unlabelled
        self._num_unlabelled = 0
        self._unlabelled = []

    def _take(self, section: Section) -> list[TokenLogprob]:
        taken = self._pending[section]
        self._pending[section] = []
        return taken


def _single(event: Event) -> list[Event]:
    """One event for each token, the end with the last."""
    last = len(event.token_ids) - 1
    if last < 1:
        return [event]
    logprobs = event.logprobs
    return [
        msgspec.structs.replace(
            event,
            token_ids=[token],
            logprobs=None if logprobs is None else logprobs[i : i + 1],
            finish_reason=event.finish_reason if i == last else None,
            ended_by_token=event.ended_by_token and i == last,
        )
        for i, token in enumerate(event.token_ids)
    ]


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one section as one piece; an end stays apart."""
    joined: list[Piece] = []
    for piece in pieces:
        before = joined[-1] if joined else None
        if before and before.section == piece.section and piece.finish_reason is None:
            text, logprobs = before.text + piece.text, before.logprobs + piece.logprobs
            joined[-1] = Piece(piece.choice, piece.section, text, logprobs)
        else:
            joined.append(piece)
    return joined


def finite(logprob: float) -> float:
    return max(logprob, LOGPROB_FLOOR)
