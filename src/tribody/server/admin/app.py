"""The ASGI application of the admin API: tenants, keys, prices and money for operators' tools.

It is not part of the public API: it has a listener of its own, on loopback (`listening`), and a
token of its own (`token`).  It translates between HTTP and the functions of tenancy and billing,
and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from tribody.core.clock import Clock
from tribody.server.admin.routes import LABELS, OPENAPI_PATH, ROUTES
from tribody.server.admin.state import AdminState
from tribody.server.admin.surface import AdminSurface
from tribody.server.admin.token import AdminToken
from tribody.server.api_route import application
from tribody.server.errors import ErrorBody
from tribody.server.openapi_operations import Described, document_of
from tribody.server.openapi_schemas import Schema
from tribody.tenancy.records import ID

ERRORS = {
    400: "The request cannot be served as it stands.",
    401: "No token, a wrong one, or more than one.",
    403: "The Host header names another machine.",
    404: "There is no such route, tenant, user, key or tariff.",
    405: "The route does not allow the method.",
    408: "The request arrived too slowly.",
    409: "The id is taken, or the money is not there.",
    413: "The body is too large.",
    422: "The Idempotency-Key was used for another body.",
    431: "The headers are too large.",
    500: "The server made a mistake.",
    503: "The books cannot be read or written now.",
}


def admin_app(
    state: AdminState, token: AdminToken, clock: Clock, refused: Callable[[], None]
) -> Starlette:
    """The application; nothing is started or opened here (`listening` does).

    `refused` is told of everybody who is not let in.
    """
    surface = AdminSurface(token, clock, LABELS.of, refused)
    app = application(ROUTES, [Route(OPENAPI_PATH, openapi)], surface)
    app.state.admin = state
    return app


async def openapi(http: HttpRequest) -> Response:
    return Response(msgspec.json.encode(document()), media_type="application/json")


def document() -> Schema:
    """/openapi.json, from the table of routes and the types that decode requests."""
    kinds: list[type[msgspec.Struct]] = [ErrorBody]
    for route in ROUTES:
        kinds += [kind for kind in (route.request, route.response) if kind]
    _, components = msgspec.json.schema_components(
        kinds, schema_hook=_anything, ref_template="#/components/schemas/{name}"
    )
    described = Described(
        errors=ERRORS,
        path_parameters={
            "tenant_id": {"pattern": f"^{ID.pattern}$"},
            "key_id": {"pattern": f"^{ID.pattern}$"},
            "verification_id": {"pattern": "^verify-[0-9a-f]{16}$"},
            "digest": {"pattern": "^[0-9a-f]{64}$"},
        },
    )
    return document_of(ROUTES, "tribody's admin API", components, described)


def _anything(kind: type) -> Schema:
    if kind is object:
        return {"description": "Any JSON."}
    raise NotImplementedError
