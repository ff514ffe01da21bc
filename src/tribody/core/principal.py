"""Who is calling."""

from __future__ import annotations

import msgspec


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The authenticated caller of one request.

    `tenant_id` isolates the prefix cache; `key_id` names the key in logs without revealing it.
    Without keys (loopback, single user) every caller is `LOCAL`.
    """

    tenant_id: str
    key_id: str


LOCAL = Principal(tenant_id="local", key_id="none")
