"""Calls between DeepSeek's special tokens, as V3, R1 and V3.1 write them.

    V3, R1   <｜tool▁calls▁begin｜>
             <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME \\n```json\\n ARGUMENTS \\n```
             <｜tool▁call▁end｜>, after a line break the next call, <｜tool▁calls▁end｜>
    V3.1     <｜tool▁calls▁begin｜>
             <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGUMENTS<｜tool▁call▁end｜>
             directly after it the next call, <｜tool▁calls▁end｜>

(on one line but for the line breaks that are named).

One parser reads both, since each model now and then writes the other's form: what stands before
the separator is the name if the arguments follow it.  The outer tokens may be missing.

Source: the chat templates that DeepSeek published with V3-0324, R1-0528 and V3.1, and V3.1's card.
"""

from __future__ import annotations

from tribody.text.tool_formats.markup import MarkupParser, Reading, Steps

CALLS_BEGIN = "<｜tool▁calls▁begin｜>"
CALLS_END = "<｜tool▁calls▁end｜>"
CALL_BEGIN = "<｜tool▁call▁begin｜>"
CALL_END = "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
FENCE = "```"

MARKERS = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR)


class SpecialTokenParser(MarkupParser):
    """The parser of V3's, R1's and V3.1's calls."""

    def _program(self) -> Steps:
        while (yield from self._content_until(CALLS_BEGIN, CALL_BEGIN)):
            self._kept = []
            if (yield from self._literal(CALLS_BEGIN, CALL_BEGIN)) == CALLS_BEGIN:
                yield from self._space()
                if (yield from self._literal(CALL_BEGIN)) is None:
                    self._no_call()
                    continue
            yield from self._read_calls()

    def _read_call(self) -> Reading:
        """Read a call after its first token; false, and not announced, if it is none."""
        name = yield from self._name()
        yield from self._space()
        if not name or (yield from self._literal(SEPARATOR)) is None:
            return False
        yield from self._space()
        if following := (yield from self._name()):
            if name != "function":
                return False
            name = following
        yield from self._space()
        if (yield from self._literal(FENCE)) is not None:
            yield from self._literal("json")
            yield from self._space()
        stops = (f"\n{FENCE}{CALL_END}", CALL_END, CALL_BEGIN, CALLS_END)
        return (yield from self._arguments(name, *stops))

    def _next_call(self) -> Reading:
        """Read on from a call's arguments; true after the first token of the next call.

        Only white space and closing markup may come between; anything else is content.
        """
        self._kept = []
        while True:
            yield from self._space()
            marker = yield from self._literal(FENCE, CALL_END, CALLS_END, CALL_BEGIN)
            if marker is None:
                self._drop_cut(FENCE, CALL_END, CALLS_END)
                return False
            if marker == CALL_BEGIN:
                return True
            self._kept = []
            if marker == CALLS_END:
                return False
