"""Who may come to the admin API: one token, from this machine, by a name of this machine.

Every path needs the token, those that do not exist too.  A name in `Host` that is not this
machine's own means that a page in a browser was led here (DNS rebinding), and is refused.  There is
no CORS: a page of another origin cannot send the token, nor read an answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Scope

from tribody.core.clock import Clock
from tribody.core.errors import BadRequest
from tribody.server.admin.token import AdminToken
from tribody.server.auth import given_key, unknown_key
from tribody.server.boundary import Spoken
from tribody.server.listening import is_loopback

OPERATOR = "admin"  # as logs call whoever has the token


@dataclass(frozen=True)
class AdminSurface:
    """See boundary.Surface."""

    token: AdminToken
    clock: Clock
    label: Callable[[str], str]
    refused: Callable[[], None]  # is told of everybody who is not let in

    def spoken(self, path: str) -> Spoken:
        return Spoken("openai")

    @contextmanager
    def enter(self, scope: Scope, spoken: Spoken) -> Iterator[None]:
        try:
            check_host(scope["headers"])
            key = given_key(scope["headers"])
            if not self.token.is_same(key):
                raise unknown_key(key)
        except BadRequest:
            self.refused()
            raise
        scope["state"]["operator"] = OPERATOR
        yield

    def answered(self, scope: Scope, status: int) -> tuple[str, str, int]:
        operator = scope.get("state", {}).get("operator", "none")
        return self.label(scope["path"]), operator, logging.INFO


HOST = re.compile(r"(?:\[(?P<address>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::[0-9]{1,5})?")


def check_host(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises: BadRequest (403) unless `Host` is given once and names this machine."""
    given = [value.decode("latin-1") for name, value in headers if name == b"host"]
    found = HOST.fullmatch(given[0]) if len(given) == 1 else None
    if found is None or not is_loopback((found["address"] or found["name"] or "").lower()):
        raise BadRequest(
            "The admin API answers to loopback names only; ask http://127.0.0.1:PORT.",
            status=403,
            code="host_not_allowed",
        )
