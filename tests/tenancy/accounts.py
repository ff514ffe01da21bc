"""Accounts as most tests want them: one author, one instant, short calls."""

from __future__ import annotations

from typing import Any

from tribody.storage.database import Database
from tribody.tenancy import store
from tribody.tenancy.records import Key, NewKey, Tenant, User

SECRET = bytes(range(32))
NOW_MS = 1_800_000_000_000
WHO = "root on a terminal"


def add_tenant(db: Database, tenant_id: str = "acme", **fields: Any) -> Tenant:
    return store.add_tenant(db, Tenant(id=tenant_id, **fields), at_ms=NOW_MS, who=WHO)


def add_user(db: Database, user_id: str = "ann", tenant_id: str = "acme") -> User:
    return store.add_user(db, User(id=user_id, tenant_id=tenant_id), at_ms=NOW_MS, who=WHO)


def add_key(db: Database, tenant_id: str = "acme", **fields: Any) -> tuple[Key, bytes]:
    """The key and, as it comes in a header, the secret part."""
    new = NewKey(tenant_id=tenant_id, **fields)
    key, plain = store.add_key(db, SECRET, new, at_ms=NOW_MS, who=WHO)
    return key, plain.encode()
