"""What a model's text says of the tools that it calls: the events that every format's parser gives.

The formats stand in `tool_formats`.  A call is a name and the text of a JSON object of arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CallStart:
    """Call number `index` of this answer, from 0, begins."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next characters of its arguments' JSON text."""

    index: int
    text: str


ToolEvent = CallStart | CallArguments


class ToolCallParser(Protocol):
    """Content in any pieces in; text and calls out, in their order.

    What comes out does not depend on the pieces, but for where a text is cut.  Nothing is lost:
    what begins like a call and is none comes back as text, with all its markup.
    """

    def push(self, text: str) -> list[str | ToolEvent]:
        """What is certain now."""
        ...

    def finish(self) -> list[str | ToolEvent]:
        """The rest."""
        ...
