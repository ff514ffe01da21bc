"""From a key to a principal: default deny."""

from __future__ import annotations

import hmac
from typing import Any

import pytest

from tests.tenancy.accounts import NOW_MS, SECRET, WHO, add_key, add_tenant, add_user
from tribody.core.api_settings import DEFAULT_API, ApiSettings
from tribody.core.errors import BadConfig
from tribody.core.principal import Limits, Principal
from tribody.storage.database import Database
from tribody.tenancy import keys, store
from tribody.tenancy.directory import Denial, Directory
from tribody.tenancy.records import KeyChange, TenantChange

BY: dict[str, Any] = {"at_ms": NOW_MS, "who": WHO}


def load(db: Database, api: ApiSettings = DEFAULT_API) -> Directory:
    return Directory.load(db, SECRET, api)


def test_a_key_stands_for_all_that_it_and_its_tenant_say(db: Database) -> None:
    add_tenant(
        db,
        weight=3,
        slo="background",
        limits=Limits(concurrency=9),
        credit_micro=5,
        api="profile=2025 errors=openai",
    )
    add_user(db)
    key, plain = add_key(
        db,
        user_id="ann",
        models=frozenset({"m"}),
        routes=frozenset({"chat"}),
        limits=Limits(requests_per_minute=2),
        api="errors=deepseek",
    )
    directory = load(db, ApiSettings(usage="openai", max_concurrency=4))
    principal = Principal(
        tenant_id="acme",
        key_id=key.id,
        user_id="ann",
        api=ApiSettings(profile="2025", usage="openai", max_concurrency=4),
        priority="background",
        weight=3,
        kv_salt=keys.kv_salt(SECRET, "acme"),
        models=frozenset({"m"}),
        routes=frozenset({"chat"}),
        tenant_limits=Limits(concurrency=9),
        key_limits=Limits(requests_per_minute=2),
        is_charged=True,
        currency="CNY",
        credit_micro=5,
    )
    assert directory.find(plain, NOW_MS) == principal
    assert directory.of_key(key.id, NOW_MS) == principal
    assert directory.find(plain, NOW_MS) is directory.find(plain, NOW_MS)


def test_nobody_else_comes_in(db: Database) -> None:
    add_tenant(db)
    key, plain = add_key(db)
    directory = load(db)
    for wrong in (
        b"",
        b"sk-",
        plain[:-1],
        plain + b"x",
        plain.swapcase(),
        b" " + plain,
        plain + b"\0",
        plain[:-1] + bytes([plain[-1] ^ 1]),
        key.digest.encode(),
        bytes.fromhex(key.digest),
        key.id.encode(),
        key.shown.encode(),
        b"' OR 1=1 --",
        "schlüssel".encode(),
        b"\xff" * 32,
        b"\0" * 32,
        SECRET,
        b"x" * 2**20,
    ):
        assert directory.find(wrong, NOW_MS) is Denial.UNKNOWN
    for wrong_id in ("", "none", "key-", key.id + "x", "acme"):
        assert directory.of_key(wrong_id, NOW_MS) is Denial.UNKNOWN


def test_an_empty_directory_denies(db: Database) -> None:
    directory = load(db)
    assert directory.find(b"", 0) is Denial.UNKNOWN
    assert directory.of_key("", 0) is Denial.UNKNOWN
    assert (directory.revision, directory.num_tenants) == (0, 0)
    assert directory.unreadable == ()


def test_what_is_too_long_to_be_a_key_is_not_even_hashed(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []
    real = keys.digest

    def digest(secret: bytes, key: bytes) -> bytes:
        hashed.append(len(key))
        return real(secret, key)

    directory = load(db)
    monkeypatch.setattr(keys, "digest", digest)
    for size in (256, 257, 2**20):
        directory.find(b"x" * size, NOW_MS)
    assert hashed == [256]


def test_digests_are_compared_in_constant_time(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found or not, one comparison of two digests decides; a look-up that lies opens nothing."""
    add_tenant(db)
    _, plain = add_key(db)
    directory = load(db)
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    digest = keys.digest(SECRET, plain)
    assert directory.find(plain, NOW_MS) is Denial.UNKNOWN
    assert directory.find(b"other", NOW_MS) is Denial.UNKNOWN
    assert compared == [(digest, digest), (b"\0" * 32, keys.digest(SECRET, b"other"))]


# --- revoked, expired, paused -----------------------------------------------------------------


def test_a_key_expires_at_its_instant(db: Database) -> None:
    add_tenant(db)
    key, plain = add_key(db, expires_ms=NOW_MS + 10)
    directory = load(db)
    for now_ms, lets_in in ((0, True), (NOW_MS + 9, True), (NOW_MS + 10, False), (10**15, False)):
        for found in (directory.find(plain, now_ms), directory.of_key(key.id, now_ms)):
            assert isinstance(found, Principal) if lets_in else found is Denial.EXPIRED


def test_a_key_is_paused_and_goes_on(db: Database) -> None:
    add_tenant(db)
    key, plain = add_key(db)
    _, other = add_key(db)
    store.change_key(db, key.id, KeyChange(is_paused=True), **BY)
    assert load(db).find(plain, NOW_MS) is Denial.PAUSED
    assert load(db).of_key(key.id, NOW_MS) is Denial.PAUSED
    assert isinstance(load(db).find(other, NOW_MS), Principal)
    store.change_key(db, key.id, KeyChange(is_paused=False), **BY)
    assert isinstance(load(db).find(plain, NOW_MS), Principal)


def test_a_paused_tenant_is_paused_with_all_its_keys(db: Database) -> None:
    add_tenant(db)
    add_tenant(db, "other")
    keys_of_it = [add_key(db)[1], add_key(db)[1]]
    _, other = add_key(db, "other")
    store.change_tenant(db, "acme", TenantChange(is_paused=True), **BY)
    directory = load(db)
    assert {directory.find(plain, NOW_MS) for plain in keys_of_it} == {Denial.PAUSED}
    assert directory.num_tenants == 1
    assert isinstance(directory.find(other, NOW_MS), Principal)


def test_revoked_comes_before_expired_before_paused(db: Database) -> None:
    """Only who holds a key that may be used again learns that it is paused."""
    add_tenant(db)
    key, plain = add_key(db, expires_ms=NOW_MS + 10)
    store.change_key(db, key.id, KeyChange(is_paused=True), **BY)
    assert load(db).find(plain, NOW_MS) is Denial.PAUSED
    assert load(db).find(plain, NOW_MS + 10) is Denial.EXPIRED
    store.revoke_key(db, key.id, **BY)
    assert load(db).find(plain, NOW_MS) is Denial.REVOKED
    assert load(db).find(plain, NOW_MS + 10) is Denial.REVOKED


def test_denials_have_names_for_metrics() -> None:
    assert {one.value for one in Denial} == {"unknown", "revoked", "expired", "paused"}


# --- snapshots --------------------------------------------------------------------------------


def test_a_snapshot_stays_as_it_is(db: Database) -> None:
    add_tenant(db)
    key, plain = add_key(db)
    directory = load(db)
    store.revoke_key(db, key.id, **BY)
    assert isinstance(directory.find(plain, NOW_MS), Principal)
    assert directory.revision == 2
    assert load(db).revision == 3


def test_another_secret_is_refused(db: Database) -> None:
    add_tenant(db)
    Directory.load(db, bytes(32), DEFAULT_API)
    add_key(db)
    with pytest.raises(BadConfig, match="made with another secret"):
        Directory.load(db, bytes(32), DEFAULT_API)


class ChangingDatabase:
    """Somebody else changes something while the directory is read."""

    def __init__(self, db: Database, change: Any) -> None:
        self._db = db
        self._change = change

    def rows(self, sql: str, given: Any = ()) -> Any:
        rows = self._db.rows(sql, given)
        if self._change:
            change, self._change = self._change, None
            change()
        return rows


def test_what_changes_while_it_is_read_makes_it_out_of_date(db: Database) -> None:
    add_tenant(db)
    key, plain = add_key(db)
    changing: Any = ChangingDatabase(db, lambda: store.revoke_key(db, key.id, **BY))
    directory = Directory.load(changing, SECRET, DEFAULT_API)
    assert directory.find(plain, NOW_MS) is Denial.REVOKED
    assert directory.revision == 2 < store.revision(db)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("UPDATE tenants SET slo = 'x' WHERE id = 'acme'", "the row 'acme' of tenants"),
        ("UPDATE tenants SET api = 'x=1' WHERE id = 'acme'", "options of the tenant"),
        ("UPDATE api_keys SET api = 'x=1' WHERE tenant_id = 'acme'", "the key 'key-"),
        ("UPDATE api_keys SET digest = 'x' WHERE tenant_id = 'acme'", "the key 'key-"),
        ("UPDATE api_keys SET models = '{' WHERE tenant_id = 'acme'", "of api_keys"),
        ("DELETE FROM tenants WHERE id = 'acme'", "the key 'key-"),
    ],
)
def test_what_cannot_be_understood_denies_itself_alone(db: Database, sql: str, words: str) -> None:
    add_tenant(db)
    add_tenant(db, "other")
    key, plain = add_key(db)
    _, other = add_key(db, "other")
    db.run(sql)
    directory = load(db)
    assert directory.find(plain, NOW_MS) is Denial.UNKNOWN
    assert directory.of_key(key.id, NOW_MS) is Denial.UNKNOWN
    assert isinstance(directory.find(other, NOW_MS), Principal)
    assert words in " ".join(directory.unreadable)
    assert key.digest not in " ".join(directory.unreadable)
