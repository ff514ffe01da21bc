"""A JSON value that knows where it was found, so that every failed look says so.

Checks read a stranger's answers: nothing about them may be taken for granted, and a missing field
is a finding, not a KeyError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from tribody.conformance.verdict import Failed, expect, shown


class Value:
    """One value of a decoded JSON text; `path` is for sentences only."""

    def __init__(self, raw: object, path: str = "the body") -> None:
        self.raw = raw
        self.path = path

    def at(self, *steps: str | int) -> Value:
        """The value below, which must be there.  Raises: Failed."""
        here = self
        for step in steps:
            found = here._below(step)
            if found is None:
                kind = "an item" if isinstance(step, int) else "a field"
                raise Failed(
                    f"expected {kind} {step!r} in {here.path}; got {shown(repr(here.raw))}"
                )
            here = found
        return here

    def maybe(self, *steps: str | int) -> Value:
        """The value below, or a null where any step is missing."""
        here = self
        for step in steps:
            found = here._below(step)
            if found is None:
                return Value(None, f"{here.path}.{step}")
            here = found
        return here

    def _below(self, step: str | int) -> Value | None:
        if isinstance(step, int):
            if isinstance(self.raw, list) and -len(self.raw) <= step < len(self.raw):
                return Value(self.raw[step], f"{self.path}[{step}]")
            return None
        if isinstance(self.raw, dict) and step in self.raw:
            path = step if self.path == "the body" else f"{self.path}.{step}"
            return Value(self.raw[step], path)
        return None

    def has(self, name: str) -> bool:
        return isinstance(self.raw, dict) and name in self.raw

    @property
    def null(self) -> bool:
        return self.raw is None

    def text(self) -> str:
        if not isinstance(self.raw, str):
            raise self._wrong("a string")
        return self.raw

    def integer(self) -> int:
        if not isinstance(self.raw, int) or isinstance(self.raw, bool):
            raise self._wrong("a whole number")
        return self.raw

    def number(self) -> float:
        if isinstance(self.raw, bool) or not isinstance(self.raw, int | float):
            raise self._wrong("a number")
        if not math.isfinite(self.raw):
            raise self._wrong("a finite number")
        return float(self.raw)

    def boolean(self) -> bool:
        if not isinstance(self.raw, bool):
            raise self._wrong("true or false")
        return self.raw

    def items(self) -> list[Value]:
        if not isinstance(self.raw, list):
            raise self._wrong("a list")
        return [Value(item, f"{self.path}[{i}]") for i, item in enumerate(self.raw)]

    def first(self) -> Value:
        """The first item of a list that must have one."""
        if not self.items():
            raise self._wrong("a list that is not empty")
        return self.at(0)

    def decoded(self) -> Value:
        """What the JSON text in this string says."""
        try:
            return Value(json.loads(self.text()), f"the JSON in {self.path}")
        except (ValueError, RecursionError):
            raise self._wrong("JSON text") from None

    def fields(self) -> dict[str, Value]:
        if not isinstance(self.raw, dict):
            raise self._wrong("an object")
        return {str(name): self.at(str(name)) for name in self.raw}

    def is_(self, expected: object) -> None:
        """The value must be `expected`, of the same type.  Raises: Failed."""
        same = type(self.raw) is type(expected) and self.raw == expected
        expect(same, f"{self.path} to be {expected!r}", repr(self.raw))

    def one_of(self, *expected: object) -> None:
        expect(self.raw in expected, f"{self.path} to be one of {expected!r}", repr(self.raw))

    def strings(self) -> Iterator[str]:
        """Every string below, in order: what a search for leaks reads."""
        if isinstance(self.raw, str):
            yield self.raw
        elif isinstance(self.raw, list):
            for item in self.items():
                yield from item.strings()
        elif isinstance(self.raw, dict):
            for value in self.fields().values():
                yield from value.strings()

    def _wrong(self, expected: str) -> Failed:
        return Failed(f"expected {self.path} to be {expected}; got {shown(repr(self.raw))}")
