"""Calls as DSML tags, as V3.2 and V4 write them.

    <｜DSML｜function_calls>                                            V4: <｜DSML｜tool_calls>
    <｜DSML｜invoke name="NAME">
    <｜DSML｜parameter name="KEY" string="true">TEXT</｜DSML｜parameter>
    <｜DSML｜parameter name="KEY" string="false">JSON</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜function_calls>

The parameters become one JSON object, written `{"KEY": VALUE, "KEY": VALUE}`.  A text is escaped as
it comes; anything else waits for its end tag, and is a JSON string if it turns out to be no JSON.

Source: `encoding_dsv32.py` and `encoding_dsv4.py` of the releases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator

from tribody.text.tool_formats.markup import MarkupParser, Reading, Steps, is_json

TOKEN = "｜DSML｜"
INVOKE = f"<{TOKEN}invoke"
INVOKE_CLOSE = f"</{TOKEN}invoke>"
PARAMETER = f"<{TOKEN}parameter"
PARAMETER_CLOSE = f"</{TOKEN}parameter>"
BLOCKS = {"deepseek_v3_2": "function_calls", "deepseek_v4": "tool_calls"}

MARKERS = (TOKEN,)

_NOT_IN_ATTRIBUTE = re.compile('["<>\n\r]')


class DsmlParser(MarkupParser):
    """The parser of V3.2's calls, in `function_calls`, and V4's, in `tool_calls`."""

    line_breaks = 2

    def __init__(self, block: str, *, live: bool = False) -> None:
        super().__init__(live=live)
        self._open = f"<{TOKEN}{block}>"
        self._close = f"</{TOKEN}{block}>"

    def _program(self) -> Steps:
        while (yield from self._content_until(self._open)):
            self._kept = []
            yield from self._literal(self._open)
            yield from self._space()
            if (yield from self._literal(INVOKE)) is not None:
                yield from self._read_calls()
            else:
                self._no_call()

    def _read_call(self) -> Reading:
        """Read a call after `<｜DSML｜invoke`; false if it is none, or breaks."""
        name = yield from self._attribute("name")
        if not name or (yield from self._literal(">")) is None:
            return False
        yield from self._space()
        marker = yield from self._literal(PARAMETER, INVOKE_CLOSE)
        if marker == PARAMETER:
            return (yield from self._read_parameters(name))
        if marker is None:
            return False
        self._call(name)
        self._argue("{}")
        return True

    def _read_parameters(self, name: str) -> Reading:
        """Read from after the first `<｜DSML｜parameter` to the call's end tag."""
        before = "{"
        while True:
            key = yield from self._attribute("name")
            kind = (yield from self._attribute("string")) if key else ""
            if kind not in ("true", "false") or (yield from self._literal(">")) is None:
                return False
            if before == "{":
                self._call(name)
            self._keep(kept=False)
            self._argue(f"{before}{_quoted(key)}: ")
            before = ", "
            if not (yield from self._read_value(is_text=kind == "true")):
                return False
            self._keep(kept=True)
            yield from self._space()
            marker = yield from self._literal(PARAMETER, INVOKE_CLOSE)
            if marker is None:
                self._drop_cut(INVOKE_CLOSE)
                return False
            if marker == INVOKE_CLOSE:
                self._argue("}")
                return True

    def _attribute(self, name: str) -> Generator[None, None, str]:
        """Read ` name="VALUE"`; "" if none comes."""
        if (yield from self._literal(f' {name}="')) is None:
            return ""
        value = yield from self._name(_NOT_IN_ATTRIBUTE)
        return value if (yield from self._literal('"')) is not None else ""

    def _read_value(self, *, is_text: bool) -> Reading:
        """Read a parameter's value and its end tag; false if the answer ends before."""
        held: list[str] = []
        if is_text:
            self._argue('"')
        for piece in self._until(PARAMETER_CLOSE):
            if piece is None:
                yield
            elif is_text:
                self._argue(_quoted(piece)[1:-1])
            else:
                held.append(piece)
        closed = (yield from self._literal(PARAMETER_CLOSE)) is not None
        value = "".join(held)
        if is_text and closed:
            self._argue('"')
        elif not is_text:
            self._argue(value if not closed or is_json(value) else _quoted(value))
        return closed

    def _next_call(self) -> Reading:
        """Read on from a call's end tag; true after the next `<｜DSML｜invoke`."""
        self._kept = []
        yield from self._space()
        marker = yield from self._literal(INVOKE, self._close)
        if marker is None:
            self._drop_cut(self._close)
        elif marker == self._close:
            self._kept = []
        return marker == INVOKE


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
