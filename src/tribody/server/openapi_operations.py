"""What /openapi.json says of a table of routes: paths, their parameters, bodies and answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from tribody.core.version import VERSION
from tribody.server.api_route import ApiRoute
from tribody.server.errors import AnthropicError, ErrorBody
from tribody.server.openapi_schemas import Schema, event_schema

IDEMPOTENCY_KEY: Schema = {"type": "string", "pattern": "^[!-~]{1,255}$"}  # visible ASCII


@dataclass(frozen=True, kw_only=True)
class Described:
    """What the table and its types do not say."""

    errors: Mapping[int, str]  # status: meaning
    path_parameters: Mapping[str, Schema]
    query_parameters: Mapping[type, Mapping[str, Schema]] = field(default_factory=dict)
    # by the query's type and field: keywords beside those of the type
    open_paths: frozenset[str] = frozenset()
    has_keys: bool = True


def document_of(
    table: Sequence[ApiRoute], title: str, components: Schema, described: Described
) -> Schema:
    document: Schema = {
        "openapi": "3.2.0",
        "info": {"title": title, "version": VERSION},
        "paths": {},
        "components": {"schemas": components},
    }
    if described.has_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for route in table:
        for path in route.paths:
            shown = re.sub(r"\{(\w+):path\}", r"{\1}", path)
            operation = _operation(route, path, described)
            document["paths"].setdefault(shown, {})[route.method.lower()] = operation
    return document


def _operation(route: ApiRoute, path: str, described: Described) -> Schema:
    responses = dict(_responses(route, path, described.errors))
    operation: Schema = {"summary": route.summary, "responses": responses}
    if route.request is not None:
        content = {"application/json": {"schema": _reference(route.request)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.form is not None:
        content = {"multipart/form-data": {"schema": route.form}}
        operation["requestBody"] = {"required": True, "content": content}
    if parameters := list(_parameters(route, path, described)):
        operation["parameters"] = parameters
    if described.has_keys and path not in described.open_paths:
        operation["security"] = [{"key": []}]
    return operation


def _parameters(route: ApiRoute, path: str, described: Described) -> Iterator[Schema]:
    for name in re.findall(r"\{(\w+)", path):
        schema = {"type": "string", **described.path_parameters[name]}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if route.query is not None:
        yield from _query(route.query, described.query_parameters.get(route.query, {}))
    if route.needs_idempotency_key:
        name = "Idempotency-Key"
        yield {"name": name, "in": "header", "required": True, "schema": IDEMPOTENCY_KEY}


def _query(kind: type[msgspec.Struct], more: Mapping[str, Schema]) -> Iterator[Schema]:
    """As the type has them; in a query nothing is null."""
    _, components = msgspec.json.schema_components([kind])
    for name, schema in components[kind.__name__]["properties"].items():
        given = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
        shown = {key: value for key, value in given[0].items() if key != "default"}
        if "enum" in shown:
            shown["enum"] = [value for value in shown["enum"] if value is not None]
        schema = shown | dict(more.get(name, {}))
        yield {"name": name, "in": "query", "required": False, "schema": schema}


def _responses(
    route: ApiRoute, path: str, errors: Mapping[int, str]
) -> Iterator[tuple[str, Schema]]:
    content: Schema = {route.media: {"schema": {"type": "string"}}}
    if route.response is not None:
        content = {"application/json": {"schema": _reference(route.response)}}
    if route.events:
        content["text/event-stream"] = {"itemSchema": event_schema(route.events)}
    yield "200", {"description": "The answer.", "content": content}
    error = AnthropicError if path.startswith("/anthropic/") else ErrorBody
    for status, meaning in errors.items():
        shape = route.response if status == 503 and path == "/readyz" else error
        assert shape is not None
        described = {"application/json": {"schema": _reference(shape)}}
        yield str(status), {"description": meaning, "content": described}


def _reference(kind: type[msgspec.Struct]) -> Schema:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
