"""JSON Schemas that an answer can be held to: their bounds, and DeepSeek's rules for strict tools.

What a schema means is llguidance's business, and it refuses what it cannot honour.  Here is only
what it would take too long over, or look for elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from tribody.core.errors import BadRequest

MAX_SCHEMA_BYTES = 64 * 2**10
# As compact JSON.  The longest in public collections that people use by hand have some 20 KiB;
# 100,000 enum values (1 MB) take llguidance 0.6 s before it refuses them.

MAX_SCHEMA_DEPTH = 100  # objects and arrays inside each other; llguidance's reader takes 127
MAX_ENUM_VALUES = 4096  # of one enum: 5,000 take 30 ms to compile (2-core Xeon)

# Where llguidance finds schemas in a schema.
_MAPS = ("properties", "patternProperties", "$defs", "$def", "definitions")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_SINGLES = ("items", "additionalProperties", "additionalItems")

_STRICT_ANYWHERE = frozenset(
    {"type", "title", "description", "enum", "const", "default", "anyOf"}
    | {"$ref", "$defs", "$def", "definitions", "$schema"}
)
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_STRICT_KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items"}),
    "string": frozenset({"pattern", "format"}),
    "number": _NUMBERS,
    "integer": _NUMBERS,
    "boolean": frozenset[str](),
    "null": frozenset[str](),  # not in DeepSeek's list; OpenAI's clients write optional fields so
}
_STRICT_FORMATS = ("email", "hostname", "ipv4", "ipv6", "uuid")


def check_schema(schema: Mapping[str, object], param: str) -> str:
    """The schema as compact JSON.  Raises: BadRequest naming what is beyond the bounds."""
    depth = _depth(schema)
    if depth > MAX_SCHEMA_DEPTH:
        raise BadRequest(
            f"{param} is nested {depth} deep; at most {MAX_SCHEMA_DEPTH} levels are allowed.",
            param=param,
        )
    try:
        text = msgspec.json.encode(schema)
    except (TypeError, ValueError, OverflowError):
        raise BadRequest(f"{param} cannot be written as JSON.", param=param) from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise BadRequest(
            f"{param} has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} are allowed.", param=param
        )
    for path, node in subschemas(schema):
        _check_node(node, path, param)
    return text.decode()


def _check_node(node: Mapping[str, object], path: str, param: str) -> None:
    values = node.get("enum")
    if isinstance(values, list) and len(values) > MAX_ENUM_VALUES:
        raise BadRequest(
            f"{param}{path}.enum has {len(values)} values; at most {MAX_ENUM_VALUES} are allowed.",
            param=param,
        )
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise BadRequest(
            f"{param}{path}.$ref points outside the schema; only references that begin with # are "
            "followed.",
            param=param,
        )
    if "x-guidance" in node:  # llguidance's own switches
        raise BadRequest(f"{param}{path}.x-guidance is not supported; leave it out.", param=param)


def _depth(value: object) -> int:
    """Objects and arrays inside each other.  Not recursive: it is asked before anything is."""
    deepest, stack = 0, [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if not isinstance(item, Mapping | list | tuple):
            continue
        deepest = max(deepest, depth)
        if deepest > 4 * MAX_SCHEMA_DEPTH:
            break  # of a caller's own making, perhaps without an end
        inner = item.values() if isinstance(item, Mapping) else item
        stack += [(value, depth + 1) for value in inner]
    return deepest


def subschemas(schema: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(path, schema) of the whole and of every schema inside; a path begins with a dot or is ""."""
    stack: list[tuple[str, object]] = [("", schema)]
    while stack:
        path, node = stack.pop()
        if not isinstance(node, Mapping):
            continue
        yield path, node
        for keyword in _MAPS:
            inner = node.get(keyword)
            if isinstance(inner, Mapping):
                stack += [(f"{path}.{keyword}.{name}", child) for name, child in inner.items()]
        for keyword in _LISTS:
            inner = node.get(keyword)
            if isinstance(inner, list | tuple):
                stack += [(f"{path}.{keyword}.{i}", child) for i, child in enumerate(inner)]
        stack += [(f"{path}.{keyword}", node.get(keyword)) for keyword in _SINGLES]


def check_strict(schema: Mapping[str, object], param: str) -> None:
    """Raises: BadRequest where DeepSeek's strict mode does not allow this schema."""
    if schema.get("type") != "object":
        raise _refusal(param, ' must have "type": "object"')
    for path, node in subschemas(schema):
        _check_strict_node(node, f"{param}{path}", param)


def _check_strict_node(node: Mapping[str, object], where: str, param: str) -> None:
    kind = node.get("type")
    if kind is None and not {"enum", "const", "anyOf", "$ref"} & node.keys():
        raise _refusal(param, " needs a type, an enum, anyOf or $ref", where)
    kinds = kind if isinstance(kind, list) else [] if kind is None else [kind]
    if not all(isinstance(k, str) and k in _STRICT_KEYWORDS for k in kinds):
        raise _refusal(param, f".type must be one of {', '.join(_STRICT_KEYWORDS)}", where)
    own = {keyword for k in kinds for keyword in _STRICT_KEYWORDS[str(k)]}
    for keyword in node:
        if keyword not in _STRICT_ANYWHERE and keyword not in own:
            raise _refusal(param, f".{keyword} is not supported; leave it out", where)
    options = node.get("anyOf", [])
    if not isinstance(options, list) or not all(isinstance(o, Mapping) for o in options):
        raise _refusal(param, ".anyOf must be a list of schemas", where)
    if "object" in kinds:
        _check_strict_object(node, where, param)
    if "array" in kinds and not isinstance(node.get("items"), Mapping):
        raise _refusal(param, ".items must be a schema", where)
    if "string" in kinds and node.get("format", "uuid") not in _STRICT_FORMATS:
        raise _refusal(param, f".format must be one of {', '.join(_STRICT_FORMATS)}", where)


def _check_strict_object(node: Mapping[str, object], where: str, param: str) -> None:
    properties, required = node.get("properties", {}), node.get("required", [])
    if not isinstance(properties, Mapping) or not all(
        isinstance(child, Mapping) for child in properties.values()
    ):
        raise _refusal(param, ".properties must be an object of schemas", where)
    if node.get("additionalProperties") is not False:
        raise _refusal(param, ".additionalProperties must be false", where)
    if not isinstance(required, list) or set(map(str, required)) != set(properties):
        raise _refusal(param, ".required must list every property", where)


def _refusal(param: str, what: str, where: str | None = None) -> BadRequest:
    return BadRequest(f"{where or param}{what}, in strict mode.", param=param)
