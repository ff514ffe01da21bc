"""Where a JSON object that comes in pieces ends, and when it is certain to be one.

Not a validator: brackets, strings and their escapes are followed, numbers and words are not read.
That is what is needed to find the end, and a grammar or the caller judges the rest.
"""

from __future__ import annotations

import re

# Single character classes: a search for one reads each character once.
_MARK = re.compile(r'[{}\[\]"]')
_STRING_MARK = re.compile(r'["\\\x00-\x1f]')

WHITE_SPACE = " \t\r\n"
_CLOSES = {"{": "}", "[": "]"}


class JsonExtent:
    """Feed it text from the object's `{` on.

    `begun` turns true at the `:` after the first key or at the `}` of an empty object, `closed`
    at the object's end, `broken` at the first character that no JSON object has there.
    """

    def __init__(self) -> None:
        self.begun = False
        self.closed = False
        self.broken = False
        self._expected = "{"  # before `begun`: what may come next
        self._brackets: list[str] = []
        self._in_string = False
        self._escaped = False

    def read(self, text: str, at: int) -> int:
        """Read on from `text[at]`; the index after the last character of the object so far.

        It is `len(text)` unless the object closed or broke, or began: then it stops there once.
        """
        while at < len(text) and not (self.closed or self.broken):
            if self._in_string:
                at = self._read_string(text, at)
            elif not self.begun:
                at = self._read_start(text, at)
                if self.begun:
                    break
            else:
                at = self._read_value(text, at)
        return at

    def _read_start(self, text: str, at: int) -> int:
        character = text[at]
        if character in WHITE_SPACE and self._brackets:
            return at + 1
        if character not in self._expected:
            self.broken = True
            return at
        if character == "{":
            self._brackets.append("{")
            self._expected = '"}'
        elif character == '"':
            self._in_string = True
            self._expected = ":"
        else:
            self.begun = True
            self.closed = character == "}"
        return at + 1

    def _read_string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        found = _STRING_MARK.search(text, at)
        if found is None:
            return len(text)
        match found.group():
            case '"':
                self._in_string = False
            case "\\":
                self._escaped = True
            case _:  # a line break or another control character
                self.broken = True
                return found.start()
        return found.end()

    def _read_value(self, text: str, at: int) -> int:
        found = _MARK.search(text, at)
        if found is None:
            return len(text)
        match found.group():
            case '"':
                self._in_string = True
            case "{" | "[" as bracket:
                self._brackets.append(bracket)
            case bracket:
                if _CLOSES[self._brackets[-1]] != bracket:
                    self.broken = True
                    return found.start()
                self._brackets.pop()
                self.closed = not self._brackets
        return found.end()
