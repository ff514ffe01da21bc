"""The bounds of schemas, and DeepSeek's strict mode."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tribody.core.errors import BadRequest
from tribody.text.json_schema import MAX_SCHEMA_DEPTH, check_schema, check_strict

STRICT: dict[str, Any] = {
    "type": "object",
    "description": "an order",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "mail": {"type": "string", "format": "email"},
        "count": {"type": "integer", "minimum": 1, "maximum": 9, "default": 1},
        "price": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5},
        "kind": {"enum": ["a", "b"]},
        "fixed": {"type": "string", "const": "x"},
        "sure": {"type": "boolean"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "perhaps": {"type": ["integer", "null"], "minimum": 0},
    },
    "required": "name mail count price kind fixed sure parts either perhaps".split(),  # noqa: SIM905
    "additionalProperties": False,
    "$defs": {
        "part": {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    },
}


def test_a_strict_schema_is_accepted() -> None:
    check_strict(STRICT, "tools")


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("type",), "array", '"type": "object"'),
        (("required",), ["name"], "required must list every property"),
        (("additionalProperties",), True, "additionalProperties must be false"),
        (("additionalProperties",), None, "additionalProperties must be false"),
        (("minProperties",), 1, "minProperties is not supported"),
        (("$defs", "part", "additionalProperties"), {}, r"\$defs.part.additionalProperties"),
        (("properties", "name", "minLength"), 1, "properties.name.minLength is not supported"),
        (("properties", "name", "maximum"), 1, "maximum is not supported"),
        (("properties", "mail", "format"), "date", "format must be one of email"),
        (("properties", "parts", "minItems"), 1, "minItems is not supported"),
        (("properties", "parts", "items"), True, "items must be a schema"),
        (("properties", "count", "type"), "nothing", "type must be one of"),
        (("properties", "count", "type"), ["integer", 3], "type must be one of"),
        (("properties", "kind"), {}, "properties.kind needs a type"),
        (("properties", "kind"), True, "properties must be an object of schemas"),
        (("properties", "either", "anyOf"), [1], "anyOf must be a list of schemas"),
        (("properties", "either", "oneOf"), [], "oneOf is not supported"),
    ],
)
def test_what_strict_mode_does_not_allow(path: tuple[str, ...], value: object, word: str) -> None:
    schema = copy.deepcopy(STRICT)
    node = schema
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(BadRequest, match=word) as caught:
        check_strict(schema, "tools.0.function.parameters")
    assert caught.value.param == "tools.0.function.parameters"


def test_names_and_values_are_not_taken_for_keywords() -> None:
    """A property may be called $ref, a constant may hold anything."""
    schema = {
        "properties": {"$ref": {"type": "string"}, "enum": {}, "x-guidance": {}},
        "const": {"$ref": "http://example.com"},
        "enum": [{"x-guidance": 1}],
    }
    assert check_schema(schema, "schema").startswith('{"properties"')


def test_depth_is_bounded_before_anything_recurses() -> None:
    endless: dict[str, object] = {}
    endless["items"] = endless
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    for schema in (endless, deep):
        with pytest.raises(BadRequest, match=f"at most {MAX_SCHEMA_DEPTH}"):
            check_schema(schema, "schema")


def test_what_json_cannot_say_is_refused() -> None:
    for value in (object(), "\ud800"):
        with pytest.raises(BadRequest, match="cannot be written as JSON"):
            check_schema({"const": value}, "schema")
