"""GET /openapi.json: made from the types that decode requests and the table of limits.

What a schema can say is said there, and a request that breaks it gets a 422 (400 in OpenAI's style,
and where something is missing); what it cannot say (fields that contradict each other, a context
that is too short) gets a 400, never a 422.
"""

from __future__ import annotations

import re

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.server import limits
from tribody.server.auth import OPEN_PATHS
from tribody.server.batch_types import BATCH_ID
from tribody.server.file_store import FILE_ID
from tribody.server.offline import BatchesQuery, FilesQuery
from tribody.server.openapi_operations import Described, document_of
from tribody.server.openapi_schemas import Schema, components
from tribody.server.results import REQUEST_ID
from tribody.server.routes import ROUTES
from tribody.server.service import Service

ERRORS = {
    400: "The request cannot be served as it stands.",
    401: "No key, a wrong one, or more than one.",
    402: "The balance does not cover what the request may cost.",
    403: "The account or key is paused, or not for this route or model.",
    404: "There is no such route or model.",
    405: "The route does not allow the method.",
    408: "The request arrived too slowly.",
    409: "The Idempotency-Key was used before, and the answer is not kept.",
    413: "The body is too large.",
    422: "A value has a wrong type or is out of its range.",
    429: "The caller has too many requests under way, or has used what it may.",
    431: "The headers are too large.",
    500: "The server made a mistake.",
    503: "There is no room now, or the server is about to end.",
}


async def openapi(http: HttpRequest) -> Response:
    """The endpoint."""
    service: Service = http.app.state.service
    return Response(msgspec.json.encode(document(service)), media_type="application/json")


def document(service: Service) -> Schema:
    """The API as this server serves it: its models' names, and keys if it asks for them."""
    names = service.models.names()
    schemas = components(names)
    _say_embeddings(schemas["EmbeddingRequest"], service)
    described = Described(
        errors=ERRORS,
        path_parameters={
            "model_id": {"enum": names},
            "file_id": {"pattern": f"^{FILE_ID.pattern}$"},
            "batch_id": {"pattern": f"^{BATCH_ID.pattern}$"},
            "request_id": {"pattern": f"^{REQUEST_ID.pattern}$"},
        },
        query_parameters={
            FilesQuery: _listed(limits.MAX_LISTED_FILES, FILE_ID),
            BatchesQuery: _listed(limits.MAX_LISTED_BATCHES, BATCH_ID),
        },
        open_paths=OPEN_PATHS,
        has_keys=service.keys is not None,
    )
    return document_of(ROUTES, "tribody", schemas, described)


def _listed(most: int, ids: re.Pattern[str]) -> dict[str, Schema]:
    """How many a list may show, and what its ids are."""
    return {"limit": {"minimum": 1, "maximum": most}, "after": {"pattern": f"^{ids.pattern}$"}}


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
