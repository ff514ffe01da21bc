"""Token ids of one answer in, its text out: thinking and content apart, cut at a stop string.

The engine's child runs it to see where an answer ends, the server to make the text that it sends;
they agree because it is the same code on the same ids.  Stop strings count in the content only: a
model may think of one.
"""

from __future__ import annotations

from collections.abc import Iterable

from tribody.core.request import Thinking
from tribody.text.detokenizer import TextStream
from tribody.text.reasoning import CLOSE, OPEN, Part, ReasoningSplitter
from tribody.text.stop_strings import StopMatcher
from tribody.text.tokenizer import Tokenizer


class AnswerStream:
    """`push` and `finish` return labelled text that is certain; no piece holds both parts.

    When a stop string appears in the content, the text is cut before it, `stopped` becomes true and
    nothing follows.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        thinking: Thinking = "none",
        markers: Iterable[str] = (),
    ) -> None:
        """`markers`: texts that count even where they are special tokens (of tool calls), as those
        of thinking always do."""
        if thinking != "none":
            markers = (*markers, OPEN, CLOSE)
        ids = (tokenizer.token_id(marker) for marker in markers)
        self._text = TextStream(tokenizer, kept=frozenset(i for i in ids if i is not None))
        self._matcher = StopMatcher(stop)
        self._splitter = None
        if thinking != "none":
            self._splitter = ReasoningSplitter(thinking=thinking == "open")

    @property
    def stopped(self) -> bool:
        """True once a stop string was seen."""
        return self._matcher.found is not None

    @property
    def stop_string(self) -> str | None:
        """The one that was seen."""
        return self._matcher.found

    def push(self, token_ids: Iterable[int]) -> list[tuple[Part, str]]:
        if self.stopped:
            return []
        text = self._text.push(token_ids)
        return self._cut(self._splitter.push(text) if self._splitter else [("content", text)])

    def finish(self) -> list[tuple[Part, str]]:
        """The rest."""
        if self.stopped:
            return []
        text = self._text.finish()
        parts: list[tuple[Part, str]] = [("content", text)]
        if self._splitter:
            parts = self._splitter.push(text) + self._splitter.finish()
        pieces = self._cut(parts)
        return pieces + _some([("content", self._matcher.finish())])

    def _cut(self, parts: list[tuple[Part, str]]) -> list[tuple[Part, str]]:
        return _some(
            [
                (part, self._matcher.push(text) if part == "content" else text)
                for part, text in parts
            ]
        )


def _some(parts: list[tuple[Part, str]]) -> list[tuple[Part, str]]:
    return [(part, text) for part, text in parts if text]
