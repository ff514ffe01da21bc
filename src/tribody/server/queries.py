"""What stands behind a path's `?`, and lists that are shown page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request as HttpRequest

from tribody.core.errors import BadRequest, BadValue
from tribody.server.errors import bad_json

Q = TypeVar("Q", bound=msgspec.Struct)
T = TypeVar("T")


def query_of(http: HttpRequest, kind: type[Q]) -> tuple[Q, list[str]]:
    """The parameters, and the names of those that are not known.  Raises: BadRequest."""
    given = dict(http.query_params)
    try:
        query = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise bad_json(error) from error
    for name in kind.__struct_fields__:
        if name in given and getattr(query, name) is None:  # msgspec reads "null" as none
            raise BadValue(f"{name} must be left out or have a value.", param=name)
        if len(http.query_params.getlist(name)) > 1:
            raise BadValue(f"{name} is given twice.", param=name)
    return query, [name for name in given if name not in kind.__struct_fields__]


def page(
    found: list[T], after: str | None, limit: int, id_of: Callable[[T], str]
) -> tuple[list[T], bool]:
    """What follows the one named `after`, `limit` at most, and whether there is more.

    Raises: BadRequest (404) when that is not in the list.
    """
    if after is not None:
        ids = [id_of(one) for one in found]
        if after not in ids:
            raise BadRequest("after names nothing that is listed.", param="after", status=404)
        found = found[ids.index(after) + 1 :]
    return found[:limit], len(found) > limit
