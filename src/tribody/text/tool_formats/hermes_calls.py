"""Calls as JSON between tags, as Hermes and Qwen models write them.

    <tool_call>
    {"name": NAME, "arguments": ARGUMENTS}
    </tool_call>

Calls follow each other after a line break.  `arguments` may come before `name`; then the call is
announced when all of it is there.

Source: the chat templates of Hermes-2-Pro and Qwen2.5.
"""

from __future__ import annotations

from collections.abc import Generator

from tribody.text.tool_formats.json_extent import JsonExtent
from tribody.text.tool_formats.markup import MarkupParser, Reading, Steps

OPEN = "<tool_call>"
CLOSE = "</tool_call>"

MARKERS = (OPEN, CLOSE)


class HermesParser(MarkupParser):
    """The parser of Hermes' and Qwen's calls."""

    line_breaks = 1

    def _program(self) -> Steps:
        while (yield from self._content_until(OPEN)):
            self._kept = []
            yield from self._literal(OPEN)
            yield from self._read_calls()

    def _read_call(self) -> Reading:
        yield from self._space()
        if not (yield from self._sequence("{", '"')):
            return False
        key = yield from self._literal('name"', 'arguments"')
        yield from self._space()
        if key is None or (yield from self._literal(":")) is None:
            return False
        yield from self._space()
        if key == 'arguments"':
            return (yield from self._read_reversed())
        name = yield from self._read_name()
        yield from self._space()
        if not name or not (yield from self._sequence(",", '"arguments"', ":")):
            return False
        yield from self._space()
        return (yield from self._arguments(name, f"\n{CLOSE}", CLOSE))

    def _read_name(self) -> Generator[None, None, str]:
        """Read a name in quotes; "" if none comes."""
        if (yield from self._literal('"')) is None:
            return ""
        name = yield from self._name()
        return name if (yield from self._literal('"')) is not None else ""

    def _read_reversed(self) -> Reading:
        """Read a call from its arguments, which stand before its name."""
        extent = JsonExtent()
        held: list[str] = []
        while not (extent.closed or extent.broken or self._ended):
            for piece in self._object(extent):
                if piece is None:
                    yield
                else:
                    held.append(piece)
        yield from self._space()
        if not extent.closed or not (yield from self._sequence(",", '"name"', ":")):
            return False
        yield from self._space()
        name = yield from self._read_name()
        if not name:
            return False
        self._call(name)
        self._argue("".join(held))
        return True

    def _next_call(self) -> Reading:
        """Read on from a call's arguments; true after the first tag of the next call.

        Only white space and closing markup may come between; anything else is content.
        """
        expected: tuple[str, ...] = ("}", CLOSE)
        while True:
            self._kept = []
            yield from self._space()
            marker = yield from self._literal(*expected)
            if marker is None:
                self._drop_cut(*(choice for choice in expected if choice != OPEN))
                return False
            if marker == OPEN:
                return True
            expected = (OPEN,) if marker == CLOSE else (CLOSE, OPEN)
