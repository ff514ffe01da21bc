"""The life of accounts in SQLite and in PostgreSQL: one and the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tenancy.accounts import NOW_MS, SECRET, WHO, add_key, add_tenant, add_user
from tribody.core.api_settings import DEFAULT_API
from tribody.core.clock import ManualClock
from tribody.core.principal import Limits, Principal
from tribody.storage.opening import open_database, open_reader
from tribody.tenancy import store
from tribody.tenancy.directory import Denial
from tribody.tenancy.live import LiveDirectory
from tribody.tenancy.records import MAX_AMOUNT, KeyChange, TenantChange

BY: dict[str, Any] = {"at_ms": NOW_MS, "who": WHO}


def test_accounts_from_beginning_to_end(where: Path | str) -> None:
    db = open_database(where)
    for name in ("b", "a-b", "a0", "a"):
        add_tenant(db, name)
    assert [tenant.id for tenant in store.all_tenants(db)] == ["a", "a-b", "a0", "b"]
    tenant = add_tenant(
        db, name="有限公司 'q\"", slo="background", limits=Limits(micro_per_day=MAX_AMOUNT)
    )
    assert store.find_tenant(db, "acme") == tenant
    add_user(db)
    accounts = LiveDirectory(lambda: open_reader(where), SECRET, DEFAULT_API, ManualClock())
    key, plain = add_key(
        db, user_id="ann", models=frozenset({"m"}), expires_ms=NOW_MS + 9, name="é%s?$1"
    )
    assert store.all_keys(db, "acme") == [key]
    assert accounts.find(plain, NOW_MS) is Denial.UNKNOWN
    accounts.poll()
    found = accounts.find(plain, NOW_MS)
    assert isinstance(found, Principal)
    assert (found.tenant_id, found.user_id, found.models) == ("acme", "ann", frozenset({"m"}))
    store.change_tenant(db, "acme", TenantChange(is_paused=True), **BY)
    accounts.poll()
    assert accounts.find(plain, NOW_MS) is Denial.PAUSED
    store.change_key(db, key.id, KeyChange(models=None, expires_ms=None), **BY)
    revoked = store.revoke_key(db, key.id, **BY)
    assert store.find_key(db, key.id) == revoked
    accounts.poll()
    assert accounts.find(plain, NOW_MS) is Denial.REVOKED
    changes = store.all_changes(db)
    assert [change.number for change in changes] == list(range(1, 11))
    assert [change.what for change in changes[-4:]] == [
        "key-added",
        "tenant-changed",
        "key-changed",
        "key-revoked",
    ]
    accounts.close()
    db.close()
