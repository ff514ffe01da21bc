"""Token ids of one choice back to reasoning, content and tool calls, with their logprobs.

The engine ends a choice at a stop string; here the text is cut at it.  The token that ended a
choice (end of sequence, or one of the caller's stop ids) is counted but never shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from tribody.core.request import Event, TokenLogprob
from tribody.text.answer_stream import AnswerStream
from tribody.text.reasoning import Part
from tribody.text.tool_calls import ToolCallParser, ToolEvent

Section = Literal["reasoning", "content", "tool_calls"]
Finish = Literal["stop", "length", "tool_calls", "insufficient_system_resource"]

LOGPROB_FLOOR = -9999.0  # stands for minus infinity, which JSON cannot hold


@dataclass(frozen=True, slots=True)
class Piece:
    """News of one choice: text of one section, a part of a tool call (`call`), or its end.

    `stop_string`: the one of the request's that ended the choice, with its end.
    Tokens of a tool call are content where their log probabilities are concerned.
    """

    choice: int
    section: Section
    text: str
    logprobs: list[TokenLogprob]
    finish_reason: Finish | None = None
    call: ToolEvent | None = None
    stop_string: str | None = None


@dataclass
class ChoiceRenderer:
    """Events of one choice in, pieces out.  Text that is not yet certain is held back.

    `tools` is None where no tool may be called; `section` is what the first token belongs to, None
    while that shows only from the text.
    """

    choice: int
    stream: AnswerStream
    tools: ToolCallParser | None = None
    section: Part | None = "content"
    reasoning_tokens: int = 0
    _num_unlabelled: int = 0
    _unlabelled: list[TokenLogprob] = field(default_factory=list)
    _pending: dict[Part, list[TokenLogprob]] = field(
        default_factory=lambda: {"reasoning": [], "content": []}
    )
    _called: bool = False  # a tool

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
        texts = self.stream.push(shown)
        ends = event.finish_reason is not None
        if ends:
            texts += self.stream.finish()
        self._label(event, texts, len(shown))
        pieces = [piece for part, text in texts for piece in self._pieces(part, text)]
        if ends and self.tools is not None:
            pieces += self._with_calls(self.tools.finish())
        if self.section == "content" and self._pending["reasoning"]:
            # Tokens of a closing tag: they have probabilities but no text.
            pieces.insert(0, Piece(self.choice, "reasoning", "", self._take("reasoning")))
        if ends:
            rest = self._take(self.section or "content")
            section = self.section if self.section and rest else "content"
            pieces.append(self._end(event, section, rest))
        return pieces

    def _pieces(self, part: Part, text: str) -> list[Piece]:
        if part == "content" and self.tools is not None:
            return self._with_calls(self.tools.push(text))
        return [Piece(self.choice, part, text, self._take(part))]

    def _with_calls(self, found: list[str | ToolEvent]) -> list[Piece]:
        pieces = []
        for item in found:
            if isinstance(item, str):
                pieces.append(Piece(self.choice, "content", item, self._take("content")))
            else:
                self._called = True
                pieces.append(Piece(self.choice, "tool_calls", "", [], call=item))
        return pieces

    def _end(self, event: Event, section: Part, rest: list[TokenLogprob]) -> Piece:
        finish, stop = self._finish(event), self.stream.stop_string
        return Piece(self.choice, section, "", rest, finish, stop_string=stop)

    def _finish(self, event: Event) -> Finish:
        if event.finish_reason == "length":
            return "length"
        return "tool_calls" if self._called else "stop"

    def _label(self, event: Event, texts: list[tuple[Part, str]], num_shown: int) -> None:
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

    def _take(self, section: Part) -> list[TokenLogprob]:
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
        alike = before and before.section == piece.section != "tool_calls"
        if before and alike and piece.finish_reason is None:
            text, logprobs = before.text + piece.text, before.logprobs + piece.logprobs
            joined[-1] = Piece(piece.choice, piece.section, text, logprobs)
        else:
            joined.append(piece)
    return joined


def finite(logprob: float) -> float:
    return max(logprob, LOGPROB_FLOOR)
