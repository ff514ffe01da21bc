"""Who is calling."""

from __future__ import annotations

import msgspec

from tribody.core.api_settings import DEFAULT_API, ApiSettings
from tribody.core.request import Priority


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The authenticated caller of one request.

    `tenant_id` isolates the prefix cache; `key_id` names the key in logs without revealing it.
    Without keys (loopback, single user) every caller is `LOCAL`.  `api` is how it is spoken to,
    `priority` that of its requests.
    """

    tenant_id: str
    key_id: str
    api: ApiSettings = DEFAULT_API
    priority: Priority = "interactive"


LOCAL = Principal(tenant_id="local", key_id="none")
