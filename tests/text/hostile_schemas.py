"""200 schemas that are made to hurt: families, each in several sizes.

A server must refuse each of them or be able to follow it, quickly, with nothing fetched.
"""

from __future__ import annotations

from collections.abc import Iterator

Schema = dict[str, object]


def nested(depth: int, keyword: str) -> Schema:
    schema: Schema = {"type": "integer"}
    for _ in range(depth):
        inner = {"a": schema} if keyword == "properties" else schema
        schema = {keyword: [schema] if keyword in ("anyOf", "allOf", "oneOf") else inner}
    return schema


def pattern(text: str, **more: object) -> Schema:
    return {"type": "string", "pattern": text, **more}


def choices_of(product: int, options: int) -> Schema:
    """An allOf of anyOf: options ** product ways."""

    def option(name: str) -> Schema:
        return {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}

    rows = range(product)
    return {"allOf": [{"anyOf": [option(f"k{i}_{j}") for j in range(options)]} for i in rows]}


def bomb(levels: int, keyword: str) -> Schema:
    """Every definition names the next one twice."""

    def twice(index: int) -> Schema:
        reference: Schema = {"$ref": f"#/$defs/d{index + 1}"}
        if keyword == "properties":
            return {"type": "object", "properties": {"a": reference, "b": reference}}
        return {keyword: [reference, {"type": "array", "items": reference}]}

    definitions: Schema = {f"d{i}": twice(i) for i in range(levels)}
    return {"$defs": definitions | {f"d{levels}": {"type": "null"}}, "$ref": "#/$defs/d0"}


def deep_choice(depth: int) -> Schema:
    if depth == 0:
        return {"type": "string"}
    inner = deep_choice(depth - 1)
    return {"anyOf": [inner, {"type": "array", "items": inner}]}


PATTERNS = [
    "(a+)+$",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(a|a)*b",
    "(a|aa)+$",
    "(.*a){30}",
    "(a{1000}){1000}",
    "((a{100}){100}){100}",
    "(\\w{1000}){1000}",
    "(.{0,1000}){0,1000}",
    "(a{0,30}){0,30}",
    "(a|b)*a(a|b){20}",
    "(.|\\n)*a.{200}b.{200}",
    "\\p{L}{1,500}\\p{N}{1,500}",
    "(\\w{1,1000}\\s){1,1000}",
    "^(.*a.*b.*c|.*c.*d.*e.{30})*$",
    "(?=a)b",
    "(?<!a)b",
    "^(a)\\1$",
    "(?P<n>a)(?P=n)",
    "(a",
    "[z-a]",
    "a{2,1}",
    "*",
    "\\",
    "(?i)(?:straße|ß){1,200}",
    "[\\s\\S]{0,100000}",
    "^$",
    "[^\\x00-\\U0010ffff]",
    "(" * 200 + "a" + ")" * 200,
    "a|" * 5000 + "b",
    "(a?){200}a{200}",
    "[a-z]{1,60}" * 60,
    "\\u0000",
    "(?R)",
    "(?#comment",
    "/answer: FREE",
    '" FREE "',
]


def hostile() -> Iterator[tuple[str, Schema]]:
    """(name, schema), each name once."""
    for keyword in ("properties", "items", "anyOf", "allOf", "additionalProperties"):
        for depth in (20, 90, 500):
            yield f"nested {keyword} {depth}", nested(depth, keyword)
    for index, text in enumerate(PATTERNS):
        yield f"pattern {index}", pattern(text)
        yield f"pattern {index}, long", pattern(text, minLength=1000, maxLength=100_000)
        yield f"patternProperties {index}", {"type": "object", "patternProperties": {text: {}}}
    for count in (100, 4096, 4097, 100_000):
        yield f"enum {count}", {"enum": [f"v{i}" for i in range(count)]}
    for product, options in ((2, 2), (5, 4), (8, 3), (20, 2)):
        yield f"allOf {product} anyOf {options}", choices_of(product, options)
    for keyword in ("anyOf", "allOf", "oneOf", "properties"):
        for levels in (5, 40, 300):
            yield f"bomb {keyword} {levels}", bomb(levels, keyword)
    for number in (10**4, 10**8, 2**31, 2**32, 2**63, 10**18, -1, 0.5):
        yield f"minItems {number}", {"type": "array", "minItems": number}
        yield f"maxItems {number}", {"type": "array", "maxItems": number}
        yield f"minLength {number}", {"type": "string", "minLength": number}
        yield f"minProperties {number}", {"type": "object", "minProperties": number}
    for factor in (1e-300, 0.001, 997, 99_991, 999_999_937, 0, -3):
        yield f"multipleOf {factor}", {"type": "integer", "multipleOf": factor}
    both: list[Schema] = [{"type": "integer", "multipleOf": 997}, {"multipleOf": 991}]
    yield "two factors", {"allOf": both}
    for bound in (1e-300, 1e15, 1e300, 2**70, -(2**63)):
        yield f"range {bound}", {"type": "number", "minimum": bound, "maximum": bound * 2}
    for count in (100, 1000, 3000):
        names = [f"p{i}" for i in range(count)]
        properties: Schema = {name: {"type": "string"} for name in names}
        yield f"{count} properties", {"type": "object", "properties": properties}
        closed = {"properties": properties, "additionalProperties": False, "minProperties": 5}
        yield f"{count} closed properties", {"type": "object", **closed}
    yield from references()
    yield from wrong()
    yield "deep choice", deep_choice(8)
    yield "long constant", {"const": "x" * 60_000}
    yield "long key", {"type": "object", "properties": {"k" * 60_000: {}}, "required": ["k"]}
    yield "date and uri", {"allOf": [{"format": "date-time"}, {"format": "uri"}]}


def references() -> Iterator[tuple[str, Schema]]:
    yield "itself", {"$ref": "#"}
    yield (
        "each other",
        {
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            "$ref": "#/$defs/a",
        },
    )
    yield (
        "endless",
        {
            "type": "object",
            "properties": {"a": {"$ref": "#"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    )
    for target in (
        "http://127.0.0.1:9/schema",
        "https://example.com/schema.json",
        "file:///etc/passwd",
        "//example.com/schema",
        "other.json",
        "#/$defs/none",
        "#/%zz",
        "#" + "/a" * 5000,
        "",
    ):
        yield f"reference {target[:30]}", {"$ref": target}
    yield "relative to an address", {"$id": "http://example.com/a", "$ref": "#/b"}
    yield "unknown dialect", {"$schema": "http://example.com/dialect", "type": "string"}


def wrong() -> Iterator[tuple[str, Schema]]:
    for index, schema in enumerate(
        (
            {"type": "strin"},
            {"type": 5},
            {"type": []},
            {"type": ["string", "string"]},
            {"properties": 5},
            {"properties": {"a": 5}},
            {"required": "a"},
            {"required": ["x"], "properties": {"x": False}, "type": "object"},
            {"enum": []},
            {"enum": 5},
            {"anyOf": []},
            {"allOf": 5},
            {"items": 5},
            {"pattern": 5},
            {"format": "none"},
            {"not": {}},
            {"uniqueItems": True},
            {"if": {}, "then": {}},
            {"minLength": 5, "maxLength": 2, "type": "string"},
            {"x-guidance": {"lenient": True}},
            {"properties": {"a": {"x-guidance": {"lenient": True}}}},
            {"const": {"\ud7ff\x00": [[[[]]]]}},
        )
    ):
        yield f"wrong {index}", dict(schema)  # type: ignore[call-overload]
