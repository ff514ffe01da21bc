"""One answer as a row of items, in the order in which they came: thinking, texts, tool calls.

Anthropic's content blocks and the Responses API's output items are these, one for one, and both
streams tell of them in the same three steps.  Nothing is invented: an answer without a character
has no items.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tribody.server.generation import Generation
from tribody.server.rendering import Finish, Piece
from tribody.server.tools import call_id
from tribody.text.tool_calls import CallStart

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Item:
    """`text` is the arguments' JSON where the item is a call, which then has a name and an id."""

    kind: Kind
    index: int
    name: str = ""
    call_id: str = ""
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)


@dataclass(frozen=True, slots=True)
class Change:
    """An item begins, gets more text, or is complete.

    Changes of one piece come together: at its beginning an item may have text that is still to be
    told of.
    """

    step: Literal["begin", "text", "end"]
    item: Item
    text: str = ""


class AnswerItems:
    """Pieces of one choice in, changes of its items out; at most the last item is not complete."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.finish_reason: Finish = "stop"
        self.stop_string: str | None = None
        self._open: Item | None = None

    def push(self, piece: Piece) -> list[Change]:
        changes: list[Change] = []
        if isinstance(piece.call, CallStart):
            index = piece.call.index
            changes += self._begin("call", name=piece.call.name, call_id=call_id(index))
        elif piece.call is not None:
            changes += self._add(piece.call.text)
        elif piece.text:
            kind: Kind = "reasoning" if piece.section == "reasoning" else "text"
            if self._open is None or self._open.kind != kind:
                changes += self._begin(kind)
            changes += self._add(piece.text)
        if piece.finish_reason is not None:
            self.finish_reason, self.stop_string = piece.finish_reason, piece.stop_string
            changes += self.end()
        return changes

    def end(self) -> list[Change]:
        """Nothing more comes to the last item."""
        ended, self._open = self._open, None
        return [] if ended is None else [Change("end", ended)]

    def _begin(self, kind: Kind, name: str = "", call_id: str = "") -> list[Change]:
        changes = self.end()
        self._open = Item(kind, len(self.items), name, call_id)
        self.items.append(self._open)
        return [*changes, Change("begin", self._open)]

    def _add(self, text: str) -> list[Change]:
        assert self._open is not None, "arguments without a call"
        if not text:
            return []
        self._open.parts.append(text)
        return [Change("text", self._open, text)]


async def whole(generation: Generation) -> AnswerItems:
    """Run a generation of one choice to its end."""
    items = AnswerItems()
    async with generation:
        async for piece in generation.pieces():
            if piece is not None:
                items.push(piece)
    return items
