"""Who is calling, and what it may do."""

from __future__ import annotations

import msgspec

from tribody.core.api_settings import DEFAULT_API, ApiSettings
from tribody.core.request import Priority


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a tenant or a key may use; 0 = no limit.

    Days and months are those of Asia/Shanghai; money is micro-units of the tenant's currency.
    """

    concurrency: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    tokens_per_month: int = 0
    micro_per_day: int = 0
    micro_per_month: int = 0


NO_LIMITS = Limits()


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The authenticated caller of one request.

    `tenant_id` and `kv_salt` isolate the prefix cache; `key_id` names the key in logs without
    revealing it, `user_id` the tenant's user that it belongs to.  Without keys (loopback, single
    user) every caller is `LOCAL`.  `api` is how it is spoken to, `priority` that of its requests,
    `weight` its tenant's share beside other tenants.  `models` and `routes` are all that it may
    use (None: everything).  What it uses is charged if `is_charged`, in `currency` and down to
    `-credit_micro`.
    """

    tenant_id: str
    key_id: str
    user_id: str = ""
    api: ApiSettings = DEFAULT_API
    priority: Priority = "interactive"
    weight: int = 1
    kv_salt: str = ""
    models: frozenset[str] | None = None
    routes: frozenset[str] | None = None
    tenant_limits: Limits = NO_LIMITS
    key_limits: Limits = NO_LIMITS
    is_charged: bool = False
    currency: str = ""
    credit_micro: int = 0


LOCAL = Principal(tenant_id="local", key_id="none")
