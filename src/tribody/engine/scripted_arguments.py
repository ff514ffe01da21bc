"""Arguments for a tool: an object of its JSON Schema, filled from what the user's text mentions.

Numbers and words are taken in the order of the text.  This is no validator: it follows the parts of
JSON Schema that tools are described with, and gives something plausible for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?")
_QUOTED = re.compile(
    r'"([^"\n]{1,200})"|(?<!\w)\'([^\'\n]{1,200})\'(?!\w)|“([^”\n]{1,200})”|`([^`\n]{1,200})`'
)
_NAME = re.compile(r"(?<=[a-z,0-9] )[A-Z][a-z]{1,40}(?: [A-Z][a-z]{1,40}){0,3}")

_FORMATS = {
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "user@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_MAX_DEPTH = 16  # of a schema that refers to itself
_MAX_ITEMS = 64
_MAX_VALUES = 10_000  # of one answer, whose schemas a stranger may have written

Schema = Mapping[str, object]


def quoted(text: str) -> list[str]:
    """What stands in quotation marks, in the order of the text."""
    return ["".join(part or "" for part in match) for match in _QUOTED.findall(text)]


class Filler:
    """Values for one call, or for several of one answer: what was used is used up."""

    def __init__(self, text: str) -> None:
        words = quoted(text)
        rest = _QUOTED.sub(" ", text)
        self._num_left = _MAX_VALUES
        self._words = words + _NAME.findall(rest)
        self._numbers = [float(n) if "." in n else int(n) for n in _NUMBER.findall(rest)]

    def arguments(self, schema: object) -> object:
        """An object for a tool's `parameters`; {} where it has none."""
        if not isinstance(schema, Mapping):
            return {}
        return self._value(schema, schema, "", 0) if schema else {}

    def _value(self, schema: object, root: Schema, name: str, depth: int) -> object:
        self._num_left -= 1
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or self._num_left < 0:
            return None
        if "const" in schema:
            return schema["const"]
        enum = schema.get("enum")
        if isinstance(enum, list) and enum:
            return self._of_enum(enum)
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._value(_referred(reference, root), root, name, depth + 1)
        for key in ("anyOf", "oneOf", "allOf"):
            choices = schema.get(key)
            if isinstance(choices, list) and choices:
                return self._value(choices[0], root, name, depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        match kind:
            case "string":
                return self._string(schema, name)
            case "integer" | "number":
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case "array":
                return self._array(schema, root, name, depth)
            case "object" | None if kind or "properties" in schema:
                return self._object(schema, root, depth)
        return self._string(schema, name)

    def _of_enum(self, values: list[object]) -> object:
        """The first value that the text quotes or names, else the first."""
        named = [value for value in values if value in self._words]
        if named:
            self._words.remove(str(named[0]))
        return (named or values)[0]

    def _string(self, schema: Schema, name: str) -> str:
        known = _FORMATS.get(str(schema.get("format")))
        if known is not None:
            return known
        text = self._words.pop(0) if self._words else name or "text"
        least = schema.get("minLength")
        return text.ljust(min(least, 1000), "x") if isinstance(least, int) else text

    def _number(self, schema: Schema, *, whole: bool) -> int | float:
        for i, number in enumerate(self._numbers):
            if isinstance(number, int) or not whole:
                return self._numbers.pop(i)
        least = schema.get("minimum")
        if isinstance(least, int | float):
            return least
        above = schema.get("exclusiveMinimum")
        if isinstance(above, int | float):
            return above + 1
        return 0

    def _array(self, schema: Schema, root: Schema, name: str, depth: int) -> list[object]:
        """As many items as the text has numbers or words for them, or as there must be."""
        items = schema.get("items", {})
        kind = items.get("type") if isinstance(items, Mapping) else None
        there = {"integer": self._numbers, "number": self._numbers, "string": self._words}
        least = schema.get("minItems")
        count = max(len(there.get(str(kind), [])), least if isinstance(least, int) else 0)
        return [
            self._value(items, root, name, depth + 1)
            for _ in range(min(count, _MAX_ITEMS) or (kind is not None and depth < 4))
        ]

    def _object(self, schema: Schema, root: Schema, depth: int) -> dict[str, object]:
        """The required properties; all of them where the schema does not say which are."""
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return {}
        required = schema.get("required")
        names = required if isinstance(required, list) else list(properties)
        return {
            str(name): self._value(properties[name], root, str(name), depth + 1)
            for name in names
            if name in properties
        }


def _referred(reference: str, root: Schema) -> object:
    """What `#/$defs/Name` means; None for a reference that leads out of the schema."""
    found: object = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            found = found.get(step) if isinstance(found, Mapping) else None
    return found
