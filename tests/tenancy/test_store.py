"""Records in the database: what goes in comes out, what may not be does not, all is on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.tenancy.accounts import NOW_MS, SECRET, WHO, add_key, add_tenant, add_user
from tribody.core.errors import BadConfig, StorageFailed
from tribody.core.principal import Limits
from tribody.storage.database import Database
from tribody.tenancy import keys, store
from tribody.tenancy.records import Key, KeyChange, NewKey, Tenant, TenantChange, User

LATER_MS = NOW_MS + 1_000
FULL_TENANT: dict[str, Any] = {
    "name": "Acme 有限公司",
    "currency": "USD",
    "weight": 7,
    "slo": "background",
    "limits": Limits(concurrency=3, tokens_per_day=10**12),
    "credit_micro": 5_000_000,
    "is_paused": True,
    "api": "profile=2025",
}
FULL_KEY: dict[str, Any] = {
    "user_id": "ann",
    "name": "laptop",
    "expires_ms": NOW_MS + 1,
    "models": frozenset({"b", "a"}),
    "routes": frozenset({"chat", "balance"}),
    "limits": Limits(requests_per_minute=2),
    "api": "errors=openai",
}


def changed(db: Database, **by: Any) -> dict[str, Callable[[], object]]:
    """Every function that changes something, on `acme`, its user `ann` and its key."""
    key = store.all_keys(db)[0].id
    new = NewKey(tenant_id="acme")
    return {
        "tenant-added": lambda: store.add_tenant(db, Tenant(id="other"), **by),
        "tenant-changed": lambda: store.change_tenant(db, "acme", TenantChange(weight=9), **by),
        "user-added": lambda: store.add_user(db, User(id="bob", tenant_id="acme"), **by),
        "key-added": lambda: store.add_key(db, SECRET, new, **by),
        "key-changed": lambda: store.change_key(db, key, KeyChange(is_paused=True), **by),
        "key-revoked": lambda: store.revoke_key(db, key, **by),
    }


@pytest.fixture
def filled(db: Database) -> Database:
    add_tenant(db)
    add_user(db)
    add_key(db)
    return db


# --- what goes in comes out -------------------------------------------------------------------


def test_a_tenant_comes_back_as_it_was_added(db: Database) -> None:
    added = add_tenant(db, **FULL_TENANT)
    assert added == Tenant(id="acme", **FULL_TENANT, created_ms=NOW_MS)
    plain = add_tenant(db, "plain")
    assert store.find_tenant(db, "acme") == added
    assert store.all_tenants(db) == [added, plain]


def test_users_are_of_one_tenant(db: Database) -> None:
    add_tenant(db)
    add_tenant(db, "other")
    ann = add_user(db)
    namesake = add_user(db, tenant_id="other")
    assert ann == User(id="ann", tenant_id="acme", created_ms=NOW_MS)
    assert store.all_users(db, "acme") == [ann]
    assert store.all_users(db, "other") == [namesake]


def test_a_key_comes_back_as_it_was_added_but_for_itself(db: Database) -> None:
    add_tenant(db)
    add_tenant(db, "other")
    add_user(db)
    key, plain = add_key(db, **FULL_KEY)
    assert key == Key(
        tenant_id="acme",
        **FULL_KEY,
        id=key.id,
        digest=keys.digest(SECRET, plain).hex(),
        shown=keys.shown(plain.decode()),
        created_ms=NOW_MS,
    )
    assert len(key.id) == 20
    assert key.id.startswith("key-")
    bare, _ = add_key(db, "other")
    assert (bare.expires_ms, bare.models, bare.routes, bare.revoked_ms) == (None,) * 4
    assert not bare.is_paused
    assert store.find_key(db, key.id) == key
    assert store.all_keys(db, "acme") == [key]
    assert store.all_keys(db, "other") == [bare]
    assert sorted(store.all_keys(db), key=lambda one: one.tenant_id) == [key, bare]


def test_records_are_listed_in_the_order_of_their_making(db: Database) -> None:
    for at_ms, name in ((5, "zeta"), (6, "beta"), (6, "alpha"), (4, "omega")):
        store.add_tenant(db, Tenant(id=name), at_ms=at_ms, who=WHO)
    assert [one.id for one in store.all_tenants(db)] == ["omega", "zeta", "alpha", "beta"]


def test_nothing_in_the_database_is_a_key(db: Database) -> None:
    add_tenant(db)
    _, plain = add_key(db)
    tables = db.rows(
        {
            "sqlite": "SELECT name FROM sqlite_schema WHERE type = 'table'",
            "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
        }[db.dialect]
    )
    kept = "".join(str(db.rows(f"SELECT * FROM {name!s}")) for (name,) in tables)
    assert plain.decode() not in kept
    assert plain.decode()[3:-4] not in kept
    assert SECRET.hex() not in kept


# --- changes ----------------------------------------------------------------------------------


def test_a_tenant_changes_in_what_is_said_alone(db: Database) -> None:
    before = add_tenant(db, **FULL_TENANT)
    changes: dict[str, Any] = {
        "name": "",
        "weight": 1,
        "slo": "interactive",
        "limits": Limits(),
        "credit_micro": 0,
        "is_paused": False,
        "api": "",
    }
    for name, value in changes.items():
        after = store.change_tenant(
            db, "acme", TenantChange(**{name: value}), at_ms=LATER_MS, who=WHO
        )
        assert getattr(after, name) == value != getattr(before, name)
        same = [one for one in after.__struct_fields__ if one != name]
        assert [getattr(after, one) for one in same] == [getattr(before, one) for one in same]
        assert store.all_tenants(db) == [after]
        before = after


def test_a_key_changes_in_what_is_said_alone(filled: Database) -> None:
    before, _ = add_key(filled, **FULL_KEY)
    others = [one for one in store.all_keys(filled) if one.id != before.id]
    changes: dict[str, Any] = {
        "name": "desk",
        "expires_ms": None,
        "models": None,
        "routes": frozenset({"models"}),
        "limits": Limits(),
        "is_paused": True,
        "api": "",
    }
    for name, value in changes.items():
        after = store.change_key(
            filled, before.id, KeyChange(**{name: value}), at_ms=LATER_MS, who=WHO
        )
        assert getattr(after, name) == value != getattr(before, name)
        same = [one for one in after.__struct_fields__ if one != name]
        assert [getattr(after, one) for one in same] == [getattr(before, one) for one in same]
        assert store.find_key(filled, before.id) == after
        before = after
    assert [one for one in store.all_keys(filled) if one.id != before.id] == others


def test_to_revoke_is_for_ever(filled: Database) -> None:
    key = store.all_keys(filled)[0]
    revoked = store.revoke_key(filled, key.id, at_ms=LATER_MS, who=WHO)
    assert revoked.revoked_ms == LATER_MS
    assert store.find_key(filled, key.id) == revoked
    number = store.revision(filled)
    assert store.revoke_key(filled, key.id, at_ms=LATER_MS + 1, who=WHO) == revoked
    assert store.revision(filled) == number
    with pytest.raises(BadConfig, match=f"the key '{key.id}' is revoked, which is for ever"):
        store.change_key(filled, key.id, KeyChange(is_paused=False), at_ms=LATER_MS, who=WHO)


def test_what_may_not_be_changes_nothing(filled: Database) -> None:
    key = store.all_keys(filled)[0].id
    by: dict[str, Any] = {"at_ms": LATER_MS, "who": WHO}
    before = [filled.rows(f"SELECT * FROM {name}") for name in ("tenants", "users", "api_keys")]
    number = store.revision(filled)
    for words, work in {
        "there is a tenant 'acme' already": lambda: add_tenant(filled),
        "has a user 'ann' already": lambda: add_user(filled),
        "there is no tenant 'nobody'; add it first": lambda: add_user(filled, "x", "nobody"),
        "there is no tenant 'nobody'": lambda: add_key(filled, "nobody"),
        "the tenant 'acme' has no user 'zoe'; add it first": lambda: add_key(filled, user_id="zoe"),
        "name has 129": lambda: add_tenant(filled, "long", name="x" * 129),
        "the user id '.'": lambda: add_user(filled, "."),
        "routes is 'all'": lambda: add_key(filled, routes=frozenset({"all"})),
        "which is not after now": lambda: add_key(filled, expires_ms=NOW_MS),
        "weight is 0": lambda: store.change_tenant(filled, "acme", TenantChange(weight=0), **by),
        "no tenant 'b'": lambda: store.change_tenant(filled, "b", TenantChange(weight=2), **by),
        "routes is empty": lambda: store.change_key(
            filled, key, KeyChange(routes=frozenset()), **by
        ),
        "no key with the id 'k'": lambda: store.change_key(filled, "k", KeyChange(), **by),
        "no key with the id 'r'": lambda: store.revoke_key(filled, "r", **by),
    }.items():
        with pytest.raises(BadConfig, match=words):
            work()
    names = ("tenants", "users", "api_keys")
    assert [filled.rows(f"SELECT * FROM {name}") for name in names] == before
    assert store.revision(filled) == number
    assert not filled.in_transaction


def test_a_user_of_another_tenant_is_none_of_ours(filled: Database) -> None:
    add_tenant(filled, "other")
    with pytest.raises(BadConfig, match="the tenant 'other' has no user 'ann'"):
        add_key(filled, "other", user_id="ann")


# --- the record of changes --------------------------------------------------------------------


def test_every_change_is_kept_with_who_and_when(filled: Database) -> None:
    before = store.all_changes(filled)
    for number, (what, work) in enumerate(changed(filled, at_ms=LATER_MS, who="bob").items(), 1):
        work()
        *old, last = store.all_changes(filled)
        assert len(old) == len(before) + number - 1
        assert (last.what, last.who, last.at_ms) == (what, "bob", LATER_MS)
        assert last.number == store.revision(filled) == len(old) + 1


def test_no_change_without_who_and_when(filled: Database) -> None:
    for who, at_ms in (("", NOW_MS), ("a\nb", NOW_MS), (WHO, -1)):
        for work in changed(filled, at_ms=at_ms, who=who).values():
            with pytest.raises(BadConfig, match=r"who|at_ms"):
                work()
    assert store.revision(filled) == 3


def test_what_a_change_says(filled: Database) -> None:
    key = store.all_keys(filled)[0]
    by: dict[str, Any] = {"at_ms": LATER_MS, "who": WHO}
    change = TenantChange(weight=2, is_paused=True, limits=Limits(concurrency=1))
    store.change_tenant(filled, "acme", change, **by)
    models = KeyChange(models=frozenset({"b", "a"}))
    store.change_key(filled, key.id, models, **by)
    store.revoke_key(filled, key.id, **by)
    tenant, user, made, *later = store.all_changes(filled)
    assert json.loads(tenant.detail)["weight"] == 1
    assert (tenant.subject, user.subject, made.subject) == ("acme", "acme/ann", key.id)
    assert json.loads(user.detail)["id"] == "ann"
    added = json.loads(made.detail)
    assert added["shown"] == key.shown
    assert "digest" not in added
    assert [one.subject for one in later] == ["acme", key.id, key.id]
    limits = dict.fromkeys(Limits.__struct_fields__, 0)
    assert json.loads(later[0].detail) == {
        "weight": [1, 2],
        "is_paused": [False, True],
        "limits": [limits, limits | {"concurrency": 1}],
    }
    assert json.loads(later[1].detail) == {"models": [None, ["a", "b"]]}
    assert json.loads(later[2].detail) == {"revoked_ms": [None, LATER_MS]}


def test_a_change_that_changes_nothing_is_none(filled: Database) -> None:
    number = store.revision(filled)
    same = TenantChange(weight=1, name="", limits=Limits())
    assert store.change_tenant(filled, "acme", same, at_ms=LATER_MS, who=WHO).weight == 1
    key = store.all_keys(filled)[0]
    assert store.change_key(filled, key.id, KeyChange(), at_ms=LATER_MS, who=WHO) == key
    assert store.revision(filled) == number == len(store.all_changes(filled))


def test_the_order_within_a_scope_is_no_change(filled: Database) -> None:
    names = [f"model-{number}" for number in range(200)]
    key, _ = add_key(filled, models=frozenset(names))
    number = store.revision(filled)
    for first in names[1:50]:
        again = KeyChange(models=frozenset([first, *reversed(names)]))
        store.change_key(filled, key.id, again, at_ms=LATER_MS, who=WHO)
    assert store.revision(filled) == number


def test_changes_are_read_in_parts(filled: Database) -> None:
    every = store.all_changes(filled)
    assert [one.number for one in every] == [1, 2, 3]
    assert store.all_changes(filled, after=1) == every[1:]
    assert store.all_changes(filled, most=2) == every[:2]


def test_changes_stay_as_they_are(filled: Database) -> None:
    before = store.all_changes(filled)
    for sql in ("UPDATE changes SET who = 'me'", "DELETE FROM changes"):
        with pytest.raises(StorageFailed, match="never changed"):
            filled.run(sql)
    assert store.all_changes(filled) == before


def test_a_change_is_undone_with_the_transaction_around_it(filled: Database) -> None:
    def all_and_fail() -> None:
        with filled.transaction():
            for work in changed(filled, at_ms=LATER_MS, who=WHO).values():
                work()
            assert store.revision(filled) == 9
            raise KeyError

    with pytest.raises(KeyError):
        all_and_fail()
    assert store.revision(filled) == 3
    assert len(store.all_tenants(filled)) == len(store.all_keys(filled)) == 1


def test_revisions_begin_at_nothing(db: Database) -> None:
    assert store.revision(db) == 0
    assert store.all_changes(db) == []


# --- secrets and rows -------------------------------------------------------------------------


def test_all_keys_are_made_with_one_secret(db: Database) -> None:
    add_tenant(db)
    assert not store.check_secret(db, SECRET)
    assert not store.check_secret(db, bytes(32))
    add_key(db)
    add_key(db)
    assert store.check_secret(db, SECRET)
    with pytest.raises(BadConfig, match="made with another secret; restore the file `secret`"):
        store.check_secret(db, bytes(32))
    with pytest.raises(BadConfig, match="made with another secret"):
        store.add_key(db, bytes(32), NewKey(tenant_id="acme"), at_ms=NOW_MS, who=WHO)
    assert len(store.all_keys(db)) == 2


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("tenants", "limits", "{"),
        ("tenants", "limits", '{"concurrency": "many"}'),
        ("tenants", "slo", "urgent"),
        ("api_keys", "models", '{"a": 1}'),
        ("api_keys", "routes", "[1]"),
    ],
)
def test_a_row_of_another_version_is_named(
    filled: Database, table: str, column: str, value: str
) -> None:
    filled.run(f"UPDATE {table} SET {column} = ?", [value])
    with pytest.raises(StorageFailed, match=f"the row '.*' of {table} cannot be understood"):
        store.all_tenants(filled) if table == "tenants" else store.all_keys(filled)
