"""A streamed chat answer, put together again as a client would."""

from __future__ import annotations

from dataclasses import dataclass

from tribody.conformance.json_value import Value
from tribody.conformance.verdict import expect
from tribody.conformance.wire import Answer, EventStream


@dataclass(frozen=True)
class ChatStream:
    """Chunks in order, and what they add up to."""

    events: EventStream
    answer: Answer

    @property
    def chunks(self) -> list[Value]:
        found = self.events.payloads
        expect(found, "at least one chunk in the stream", "none")
        return found

    def deltas(self, choice: int = 0) -> list[Value]:
        """The deltas of one choice, in order."""
        return [
            entry.maybe("delta")
            for chunk in self.chunks
            for entry in chunk.at("choices").items()
            if entry.maybe("index").raw == choice
        ]

    def joined(self, name: str, choice: int = 0) -> str:
        """The text of one field of all deltas: "content", "reasoning_content"."""
        pieces = [delta.maybe(name) for delta in self.deltas(choice)]
        return "".join(piece.text() for piece in pieces if not piece.null)

    @property
    def content(self) -> str:
        return self.joined("content")

    @property
    def reasoning(self) -> str:
        return self.joined("reasoning_content")

    def finish_reasons(self, choice: int = 0) -> list[str]:
        return [
            entry.at("finish_reason").text()
            for chunk in self.chunks
            for entry in chunk.at("choices").items()
            if entry.maybe("index").raw == choice and not entry.maybe("finish_reason").null
        ]

    @property
    def usage(self) -> Value:
        found = [chunk.at("usage") for chunk in self.chunks if not chunk.maybe("usage").null]
        expect(found, "a chunk with usage", "none")
        return found[-1]

    def fragments(self) -> list[Value]:
        """Every piece of every tool call, in order."""
        return [
            piece
            for delta in self.deltas()
            if not delta.maybe("tool_calls").null
            for piece in delta.at("tool_calls").items()
        ]

    def calls(self) -> list[tuple[str, str]]:
        """(name, arguments) of each call, by index."""
        names: dict[int, str] = {}
        arguments: dict[int, str] = {}
        for piece in self.fragments():
            index = piece.at("index").integer()
            name = piece.maybe("function", "name")
            names[index] = names.get(index, "") + ("" if name.null else name.text())
            part = piece.maybe("function", "arguments")
            arguments[index] = arguments.get(index, "") + ("" if part.null else part.text())
        return [(names[index], arguments[index]) for index in sorted(names)]
