"""Tenants, users and keys in the database, and the record of every change to them.

Each function is a transaction of its own, or part of the caller's.  A change adds one to the
`revision` of the area, by which servers notice it, and a row to `changes`, which is only ever added
to: who, when, what - never a key or its digest.  Nothing is removed: a tenant is paused, a key is
revoked, so that old usage keeps its names.

Raises, everywhere: BadConfig for what the caller can mend, StorageFailed for the rest.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec

from tribody.core.errors import BadConfig, StorageFailed
from tribody.storage.database import Database, Row, Value
from tribody.storage.revisions import Area, raise_revision, revisions
from tribody.tenancy import keys
from tribody.tenancy.records import (
    AlreadyThere,
    Key,
    KeyChange,
    NewKey,
    NotThere,
    Tenant,
    TenantChange,
    User,
    check_author,
    check_key,
    check_tenant,
    check_user,
)

AREA: Area = "tenancy"
KEY_ID_BYTES = 8

What = Literal[
    "tenant-added", "tenant-changed", "user-added", "key-added", "key-changed", "key-revoked"
]
Record = TypeVar("Record", Tenant, User, Key)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change as it is kept.  `detail` is JSON: a new record, or before and after by field."""

    number: int
    at_ms: int
    who: str
    what: str
    subject: str  # the id, of a user after its tenant's and a slash
    detail: str


_TABLES: dict[type[Tenant | User | Key], str] = {Tenant: "tenants", User: "users", Key: "api_keys"}
_JSON = frozenset({"limits", "models", "routes"})  # columns that hold it
_FLAGS = frozenset({"is_paused"})  # columns that hold 0 or 1
_UNTOLD = frozenset({"digest"})  # fields that no change shows


# --- changes ----------------------------------------------------------------------------------


def add_tenant(db: Database, tenant: Tenant, *, at_ms: int, who: str) -> Tenant:
    """Add a tenant; what is returned has its `created_ms`."""
    check_author(who, at_ms)
    check_tenant(tenant)
    added = msgspec.structs.replace(tenant, created_ms=at_ms)
    with db.transaction():
        if _find(db, Tenant, "id = ?", [tenant.id]):
            raise AlreadyThere(f"there is a tenant {tenant.id!r} already; choose another id")
        _insert(db, added)
        _keep_change(db, at_ms, who, ("tenant-added", tenant.id, _told(added)))
    return added


def change_tenant(
    db: Database, tenant_id: str, change: TenantChange, *, at_ms: int, who: str
) -> Tenant:
    check_author(who, at_ms)
    with db.transaction():
        before = find_tenant(db, tenant_id)
        after = msgspec.structs.replace(before, **_given(change))
        check_tenant(after)
        _replace(db, before, after, at_ms, who, "tenant-changed")
    return after


def add_user(db: Database, user: User, *, at_ms: int, who: str) -> User:
    check_author(who, at_ms)
    check_user(user)
    added = msgspec.structs.replace(user, created_ms=at_ms)
    with db.transaction():
        find_tenant(db, user.tenant_id)
        if _find(db, User, "tenant_id = ? AND id = ?", [user.tenant_id, user.id]):
            raise AlreadyThere(
                f"the tenant {user.tenant_id!r} has a user {user.id!r} already; choose another id"
            )
        _insert(db, added)
        subject = f"{user.tenant_id}/{user.id}"
        _keep_change(db, at_ms, who, ("user-added", subject, _told(added)))
    return added


def add_key(db: Database, secret: bytes, new: NewKey, *, at_ms: int, who: str) -> tuple[Key, str]:
    """Make a key.  The second value is the key itself, which nothing can tell again."""
    check_author(who, at_ms)
    check_key(new)
    if new.expires_ms is not None and new.expires_ms <= at_ms:
        raise BadConfig(
            f"expires_ms is {new.expires_ms}, which is not after now ({at_ms}); choose a later one"
        )
    plain = keys.new_key()
    key = Key(
        **msgspec.structs.asdict(new),
        id=f"key-{secrets.token_hex(KEY_ID_BYTES)}",
        digest=keys.digest(secret, plain.encode()).hex(),
        shown=keys.shown(plain),
        created_ms=at_ms,
    )
    with db.transaction():
        find_tenant(db, new.tenant_id)
        if new.user_id and not _find(
            db, User, "tenant_id = ? AND id = ?", [new.tenant_id, new.user_id]
        ):
            raise NotThere(
                f"the tenant {new.tenant_id!r} has no user {new.user_id!r}; add it first"
            )
        if not check_secret(db, secret):
            db.run("INSERT INTO secret_used (fingerprint) VALUES (?)", [keys.fingerprint(secret)])
        _insert(db, key)
        _keep_change(db, at_ms, who, ("key-added", key.id, _told(key)))
    return key, plain


def change_key(db: Database, key_id: str, change: KeyChange, *, at_ms: int, who: str) -> Key:
    check_author(who, at_ms)
    with db.transaction():
        before = find_key(db, key_id)
        if before.revoked_ms is not None:
            raise BadConfig(f"the key {key_id!r} is revoked, which is for ever; make a new one")
        after = msgspec.structs.replace(before, **_given(change))
        check_key(after)
        _replace(db, before, after, at_ms, who, "key-changed")
    return after


def revoke_key(db: Database, key_id: str, *, at_ms: int, who: str) -> Key:
    """Deny a key for ever.  To revoke it once more changes nothing."""
    check_author(who, at_ms)
    with db.transaction():
        before = find_key(db, key_id)
        if before.revoked_ms is not None:
            return before
        after = msgspec.structs.replace(before, revoked_ms=at_ms)
        _replace(db, before, after, at_ms, who, "key-revoked")
    return after


# --- what there is ----------------------------------------------------------------------------


def find_tenant(db: Database, tenant_id: str) -> Tenant:
    found = _find(db, Tenant, "id = ?", [tenant_id])
    if not found:
        raise NotThere(f"there is no tenant {tenant_id[:80]!r}; add it first")
    return found[0]


def find_key(db: Database, key_id: str) -> Key:
    found = _find(db, Key, "id = ?", [key_id])
    if not found:
        raise NotThere(f"there is no key with the id {key_id[:80]!r}; list them to see the ids")
    return found[0]


def all_tenants(db: Database) -> list[Tenant]:
    return _find(db, Tenant)


def all_users(db: Database, tenant_id: str) -> list[User]:
    return _find(db, User, "tenant_id = ?", [tenant_id])


def all_keys(db: Database, tenant_id: str | None = None) -> list[Key]:
    """One tenant's, or everybody's."""
    if tenant_id is None:
        return _find(db, Key)
    return _find(db, Key, "tenant_id = ?", [tenant_id])


def revision(db: Database) -> int:
    """A number that every change makes larger."""
    return revisions(db).get(AREA, 0)


def all_changes(db: Database, *, after: int = 0, most: int = 1_000) -> list[Change]:
    """Changes in their order, from the one behind number `after` on."""
    names = Change.__struct_fields__
    rows = db.rows(
        f"SELECT {', '.join(names)} FROM changes WHERE number > ? ORDER BY number LIMIT ?",
        [after, most],
    )
    return [msgspec.convert(dict(zip(names, row, strict=True)), Change) for row in rows]


def check_secret(db: Database, secret: bytes) -> bool:
    """Whether keys have been made; they must have been made with this secret."""
    rows = db.rows("SELECT fingerprint FROM secret_used")
    if rows and not hmac.compare_digest(str(rows[0][0]), keys.fingerprint(secret)):
        raise BadConfig(
            "the keys in the database were made with another secret; restore the file `secret` of "
            "the data folder, on every machine that shares the database"
        )
    return bool(rows)


# --- rows -------------------------------------------------------------------------------------


def record_rows(
    db: Database, kind: type[Record], where: str = "", given: Sequence[Value] = ()
) -> list[Row]:
    """Rows that `record_of` reads, in the order in which the records were added."""
    columns = ", ".join(kind.__struct_fields__)
    condition = f" WHERE {where}" if where else ""
    return db.rows(
        f"SELECT {columns} FROM {_TABLES[kind]}{condition} ORDER BY created_ms, id", given
    )


def record_of(kind: type[Record], row: Row) -> Record:
    """Raises: StorageFailed for a row that this version does not understand."""
    fields: dict[str, object] = dict(zip(kind.__struct_fields__, row, strict=True))
    try:
        for name in fields:
            value = fields[name]
            if name in _JSON and value is not None:
                fields[name] = msgspec.json.decode(str(value))
            elif name in _FLAGS:
                fields[name] = bool(value)
        return msgspec.convert(fields, kind)
    except msgspec.MsgspecError as error:
        table, name = _TABLES[kind], str(fields["id"])
        raise StorageFailed(f"the row {name!r} of {table} cannot be understood: {error}") from error


def _find(
    db: Database, kind: type[Record], where: str = "", given: Sequence[Value] = ()
) -> list[Record]:
    return [record_of(kind, row) for row in record_rows(db, kind, where, given)]


def _values(record: Tenant | User | Key) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name, value in msgspec.structs.asdict(record).items():
        if name in _JSON and value is not None:
            values[name] = msgspec.json.encode(value, order="deterministic").decode()
        else:
            values[name] = int(value) if name in _FLAGS else value
    return values


def _insert(db: Database, record: Tenant | User | Key) -> None:
    values = _values(record)
    marks = ", ".join("?" for _ in values)
    db.run(
        f"INSERT INTO {_TABLES[type(record)]} ({', '.join(values)}) VALUES ({marks})",
        list(values.values()),
    )


def _replace(db: Database, before: Record, after: Record, at_ms: int, who: str, what: What) -> None:
    """Keep what is different, if anything is."""
    old: dict[str, Value] = _values(before)
    new: dict[str, Value] = _values(after)
    changed: list[str] = [name for name in new if new[name] != old[name]]
    if not changed:
        return
    sets = ", ".join(f"{name} = ?" for name in changed)
    db.run(
        f"UPDATE {_TABLES[type(after)]} SET {sets} WHERE id = ?",
        [*(new[name] for name in changed), after.id],
    )
    told_before, told_after = _told(before), _told(after)
    detail: dict[str, object] = {name: [told_before[name], told_after[name]] for name in changed}
    _keep_change(db, at_ms, who, (what, after.id, detail))


def _keep_change(
    db: Database, at_ms: int, who: str, change: tuple[What, str, dict[str, object]]
) -> None:
    """Its number is the area's new revision, so that no two have the same."""
    what, subject, detail = change
    raise_revision(db, AREA)
    text = msgspec.json.encode(detail, order="deterministic").decode()
    db.run(
        "INSERT INTO changes (number, at_ms, who, what, subject, detail) VALUES (?, ?, ?, ?, ?, ?)",
        [revision(db), at_ms, who, what, subject, text],
    )


def _told(record: Tenant | User | Key) -> dict[str, object]:
    fields = msgspec.to_builtins(record, order="deterministic")
    return {name: value for name, value in fields.items() if name not in _UNTOLD}


def _given(change: TenantChange | KeyChange) -> dict[str, object]:
    fields = msgspec.structs.asdict(change)
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}
