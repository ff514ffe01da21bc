"""What the parsers of all formats share: reading markup that comes in pieces.

A parser is written as a program that reads on and on (`_program`); where it needs text that has
not come yet, it yields.  What it has read of something that may be a call is kept (`_kept`) until
that is certain.  Nothing is read twice, so the work is linear in the text, whatever the text is.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Generator
from typing import NoReturn

from tribody.text.tool_calls import CallArguments, CallStart, ToolEvent
from tribody.text.tool_formats.json_extent import WHITE_SPACE, JsonExtent

MAX_NAME_CHARACTERS = 256
# APIs allow 64.  A name is held back until it ends, and this is how much can be.

Steps = Generator[None, None, None]
Reading = Generator[None, None, bool]
_NOT_IN_NAME = re.compile(r"[^\w.:/\-]")
_NOT_SPACE = re.compile(f"[^{WHITE_SPACE}]")


class MarkupParser:
    """A `ToolCallParser`, but for the format: `_program` reads a whole answer.

    `line_breaks` is how many of them the format itself writes between content and a call.
    """

    line_breaks = 0

    def __init__(self, *, live: bool = False) -> None:
        """`live`: arguments are told as they come, once they have begun; else each call when it is
        whole and its arguments are a JSON object, and what breaks is content."""
        self._live = live
        self._whole: tuple[str, list[str]] | None = None  # a call that is held: its name, arguments
        self._text = ""
        self._at = 0
        self._ended = False
        self._kept: list[str] | None = None  # read, and perhaps markup; None outside of that
        self._breaks = ""  # the end of the content, if a call follows
        self._out: list[str | ToolEvent] = []
        self._index = -1  # of the latest call
        self._running: Steps | None = self._program()

    def push(self, text: str) -> list[str | ToolEvent]:
        """What is certain now."""
        self._text = self._text[self._at :] + text
        self._at = 0
        return self._run() if text else []

    def finish(self) -> list[str | ToolEvent]:
        """The rest."""
        self._ended = True
        events = self._run()
        if self._breaks:
            events.append(self._breaks)
            self._breaks = ""
        return events

    def _run(self) -> list[str | ToolEvent]:
        if self._running is not None and next(self._running, True):
            self._running = None
        events, self._out = _joined(self._out), []
        return events

    def _program(self) -> Steps:
        raise NotImplementedError

    # Reading.  Each of these reads `self._text` from `self._at` on and waits for more by yielding.

    def _take(self, end: int) -> str:
        """The text up to `end`, which is read with that."""
        text = self._text[self._at : end]
        self._at = end
        if self._kept is not None and text:
            self._kept.append(text)
        return text

    def _literal(self, *choices: str) -> Generator[None, None, str | None]:
        """Read one of `choices`, none of which begins another; None, and nothing read, if none
        comes."""
        while True:
            left = len(self._text) - self._at
            for choice in choices:
                if self._text.startswith(choice, self._at):
                    self._take(self._at + len(choice))
                    return choice
            rest = self._text[self._at : self._at + max(map(len, choices))]
            if self._ended or not any(
                len(choice) > left and choice.startswith(rest) for choice in choices
            ):
                return None
            yield

    def _sequence(self, *parts: str) -> Reading:
        """Read all of `parts`, white space before each of them but the first allowed."""
        for number, part in enumerate(parts):
            if number:
                yield from self._space()
            if (yield from self._literal(part)) is None:
                return False
        return True

    def _space(self) -> Steps:
        """Read white space."""
        while True:
            found = _NOT_SPACE.search(self._text, self._at)
            self._take(found.start() if found else len(self._text))
            if found or self._ended:
                return
            yield

    def _name(self, end: re.Pattern[str] = _NOT_IN_NAME) -> Generator[None, None, str]:
        """Read a name up to `end`: letters, digits and `_-.:/`; "" if it is none or too long."""
        name = ""
        while len(name) <= MAX_NAME_CHARACTERS:
            limit = self._at + MAX_NAME_CHARACTERS + 1 - len(name)
            found = end.search(self._text, self._at, limit)
            name += self._take(found.start() if found else min(limit, len(self._text)))
            if found or (self._ended and self._at == len(self._text)):
                break
            if self._at == len(self._text):
                yield
        return name if len(name) <= MAX_NAME_CHARACTERS else ""

    def _until(self, *stops: str) -> Generator[str | None, None, None]:
        """Yield the text before the first of `stops` in pieces, None to wait; read no stop."""
        first = re.compile("[" + re.escape("".join({stop[0] for stop in stops})) + "]")
        while True:
            found = first.search(self._text, self._at)
            end = found.start() if found else len(self._text)
            if end > self._at:
                yield self._take(end)
            if found:
                rest = self._text[end : end + max(map(len, stops))]
                if rest.startswith(stops):
                    return
                short = len(self._text) - end
                waiting = any(len(stop) > short and stop.startswith(rest) for stop in stops)
                if not waiting or self._ended:
                    yield self._take(end + 1)
                    continue
            if self._ended:
                return
            yield None

    # Writing.

    def _content_until(self, *stops: str) -> Reading:
        """Pass text on as content; False if the answer ends before any of `stops`."""
        for piece in self._until(*stops):
            if piece is None:
                yield
            else:
                self._say(piece)
        return self._at < len(self._text)

    def _say(self, text: str) -> None:
        """Text that is content for certain, but for the line breaks that a call may swallow."""
        text = self._breaks + text
        body = text.rstrip("\n")
        end = max(len(body), len(text) - self.line_breaks)
        self._breaks = text[end:]
        if end:
            self._out.append(text[:end])

    def _no_call(self) -> None:
        """What was kept is content after all."""
        kept, self._kept = "".join(self._kept or ()), None
        if kept:
            self._say(kept)

    def _drop_cut(self, *closing: str) -> None:
        """Leave out what the answer's end left of the closing markup that should follow a call."""
        if self._whole is not None:
            return
        rest = self._text[self._at :]
        if self._ended and (not rest or any(marker.startswith(rest) for marker in closing)):
            self._kept = None
            self._at = len(self._text)

    def _call(self, name: str) -> None:
        """The next call has begun; what was kept was its markup."""
        if not self._live:
            self._whole = name, []
            return
        self._kept = None
        self._announce(name)

    def _announce(self, name: str) -> None:
        self._breaks = ""
        self._index += 1
        self._out.append(CallStart(self._index, name))

    def _argue(self, text: str) -> None:
        if self._whole is not None:
            self._whole[1].append(text)
        elif text:
            self._out.append(CallArguments(self._index, text))

    def _keep(self, *, kept: bool) -> None:
        """Keep what is read from here on, or no longer: parts of a call that is told live."""
        if self._whole is None:
            self._kept = [] if kept else None

    def _read_call(self) -> Reading:
        """Read a call; false if it is none, or breaks."""
        raise NotImplementedError

    def _next_call(self) -> Reading:
        """Read on from a call's end; true after what begins the next one."""
        raise NotImplementedError

    def _read_calls(self) -> Steps:
        """Read calls, one after the other; what is none is content."""
        while True:
            read = yield from self._read_call()
            if self._whole is not None:
                (name, parts), self._whole = self._whole, None
                arguments = "".join(parts)
                if not is_json(arguments, dict):
                    break
                self._kept = None
                self._announce(name)
                self._argue(arguments)
            if not (read and (yield from self._next_call())):
                break
        self._no_call()

    def _object(self, extent: JsonExtent) -> Generator[str | None, None, None]:
        """Yield a JSON object's text in pieces, None to wait, till it begins, closes or breaks."""
        while True:
            begun = extent.begun
            piece = self._take(extent.read(self._text, self._at))
            if piece:
                yield piece
            if self._ended or extent.closed or extent.broken or extent.begun != begun:
                return
            if self._at == len(self._text):
                yield None

    def _arguments(self, name: str, *stops: str) -> Reading:
        """Read the arguments of a call, a JSON object.

        One that breaks goes on as it is up to one of `stops`.  False, and no call, if it breaks
        before it has begun.
        """
        extent = JsonExtent()
        held: list[str] = []
        for piece in self._object(extent):
            if piece is None:
                yield
            else:
                held.append(piece)
        if not extent.begun:
            return False
        self._call(name)
        self._argue("".join(held))
        for piece in self._object(extent):
            if piece is None:
                yield
            else:
                self._argue(piece)
        if not extent.closed:
            for piece in self._until(*stops):
                if piece is None:
                    yield
                else:
                    self._argue(piece)
        return True


def is_json(text: str, kind: type = object) -> bool:
    """Whether `text` is JSON, and an object for `dict`.  Numbers are checked as text: what they
    are worth, and whether they fit, is not asked."""
    try:
        value = json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, kind)


def _refuse(constant: str) -> NoReturn:
    """NaN and Infinity, which Python reads and JSON has not."""
    raise ValueError(constant)


def _joined(events: list[str | ToolEvent]) -> list[str | ToolEvent]:
    """Neighbours of one kind as one."""
    joined: list[str | ToolEvent] = []
    for kind, group in itertools.groupby(events, _kind):
        if kind is str:
            joined.append("".join(event for event in group if isinstance(event, str)))
        elif isinstance(kind, int):
            parts = [event.text for event in group if isinstance(event, CallArguments)]
            joined.append(CallArguments(kind, "".join(parts)))
        else:
            joined += group
    return joined


def _kind(event: str | ToolEvent) -> object:
    match event:
        case str():
            return str
        case CallArguments(index=index):
            return index
        case _:
            return event
