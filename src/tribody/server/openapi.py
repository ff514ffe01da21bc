"""GET /openapi.json: made from the types that decode requests and the table of limits.

What a schema can say is said there, and a request that breaks it gets a 422 (400 in OpenAI's style,
and where something is missing); what it cannot say (fields that contradict each other, a context
that is too short) gets a 400, never a 422.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.version import VERSION
from tribody.server import limits
from tribody.server.auth import OPEN_PATHS
from tribody.server.batch_types import BATCH_ID
from tribody.server.errors import AnthropicError, ErrorBody
from tribody.server.file_store import FILE_ID
from tribody.server.offline import BatchesQuery, FilesQuery
from tribody.server.openapi_schemas import Schema, components, event_schema
from tribody.server.routes import ROUTES, ApiRoute
from tribody.server.service import Service

ERRORS = {
    400: "The request cannot be served as it stands.",
    401: "No key, a wrong one, or more than one.",
    404: "There is no such route or model.",
    405: "The route does not allow the method.",
    408: "The request arrived too slowly.",
    413: "The body is too large.",
    422: "A value has a wrong type or is out of its range.",
    429: "The caller has too many requests under way.",
    431: "The headers are too large.",
    500: "The server made a mistake.",
    503: "There is no room now, or the server is about to end.",
}

LISTED: dict[type, tuple[int, re.Pattern[str]]] = {
    FilesQuery: (limits.MAX_LISTED_FILES, FILE_ID),
    BatchesQuery: (limits.MAX_LISTED_BATCHES, BATCH_ID),
}
# How many a list may show, and what their ids are.


async def openapi(http: HttpRequest) -> Response:
    """The endpoint."""
    service: Service = http.app.state.service
    return Response(msgspec.json.encode(document(service)), media_type="application/json")


def document(service: Service) -> Schema:
    """The API as this server serves it: its models' names, and keys if it asks for them."""
    names = service.models.names()
    document: Schema = {
        "openapi": "3.2.0",
        "info": {"title": "tribody", "version": VERSION},
        "paths": {},
        "components": {"schemas": components(names)},
    }
    _say_embeddings(document["components"]["schemas"]["EmbeddingRequest"], service)
    if service.keys is not None:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for route in ROUTES:
        for path in route.paths:
            shown = re.sub(r"\{(\w+):path\}", r"{\1}", path)
            operation = _operation(route, path, names, has_keys=service.keys is not None)
            document["paths"].setdefault(shown, {})[route.method.lower()] = operation
    return document


# --- operations ------------------------------------------------------------------------------


def _operation(route: ApiRoute, path: str, names: list[str], *, has_keys: bool) -> Schema:
    operation: Schema = {"summary": route.summary, "responses": dict(_responses(route, path))}
    if route.request is not None:
        content = {"application/json": {"schema": _reference(route.request)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.form is not None:
        content = {"multipart/form-data": {"schema": route.form}}
        operation["requestBody"] = {"required": True, "content": content}
    parameters = [*_path_parameters(path, names), *_query_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if has_keys and path not in OPEN_PATHS:
        operation["security"] = [{"key": []}]
    return operation


def _path_parameters(path: str, names: list[str]) -> Iterator[Schema]:
    schemas: dict[str, Schema] = {
        "model_id": {"enum": names},
        "file_id": {"pattern": f"^{FILE_ID.pattern}$"},
        "batch_id": {"pattern": f"^{BATCH_ID.pattern}$"},
    }
    for name in re.findall(r"\{(\w+)", path):
        schema = {"type": "string"} | schemas[name]
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(route: ApiRoute) -> Iterator[Schema]:
    """As the type has them; in a query nothing is null."""
    if route.query is None:
        return
    _, components = msgspec.json.schema_components([route.query])
    for name, schema in components[route.query.__name__]["properties"].items():
        given = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
        shown = {key: value for key, value in given[0].items() if key != "default"}
        if "enum" in shown:
            shown["enum"] = [value for value in shown["enum"] if value is not None]
        if name == "limit":
            shown |= {"minimum": 1, "maximum": LISTED[route.query][0]}
        if name == "after":
            shown["pattern"] = f"^{LISTED[route.query][1].pattern}$"
        yield {"name": name, "in": "query", "required": False, "schema": shown}


def _responses(route: ApiRoute, path: str) -> Iterator[tuple[str, Schema]]:
    content: Schema = {route.media: {"schema": {"type": "string"}}}
    if route.response is not None:
        content = {"application/json": {"schema": _reference(route.response)}}
    if route.events:
        content["text/event-stream"] = {"itemSchema": event_schema(route.events)}
    yield "200", {"description": "The answer.", "content": content}
    error = AnthropicError if path.startswith("/anthropic/") else ErrorBody
    for status, meaning in ERRORS.items():
        shape = route.response if status == 503 and path == "/readyz" else error
        assert shape is not None
        described = {"application/json": {"schema": _reference(shape)}}
        yield str(status), {"description": meaning, "content": described}


def _reference(kind: type[msgspec.Struct]) -> Schema:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _say_embeddings(schema: Schema, service: Service) -> None:
    """What depends on the models, and what the types of `input` are too wide for: ids stand beside
    ids only, and nothing is empty."""
    infos = [model.engine.info for model in service.models.models]
    text: Schema = {"type": "string", "minLength": 1}
    last_id = min(info.vocab_size for info in infos) - 1
    ids: Schema = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": last_id},
        "minItems": 1,
        "maxItems": min(info.max_context_tokens for info in infos),
    }
    several = {"type": "array", "minItems": 1, "maxItems": limits.MAX_INPUTS}
    forms = [text, ids, several | {"items": text}, several | {"items": ids}]
    schema["properties"]["input"] = {"anyOf": forms}
    for alternative in schema["properties"]["dimensions"]["anyOf"]:
        if alternative["type"] == "integer":
            alternative["enum"] = sorted({info.hidden_size for info in infos})
