"""`tribody keys`."""

from __future__ import annotations

import re
import time

import pytest

from tests.cli.conftest import Desk
from tribody.core.api_settings import DEFAULT_API
from tribody.storage.opening import open_reader
from tribody.tenancy.directory import Denial, Directory
from tribody.tenancy.keys import read_secret

DAY_MS = 86_400_000


@pytest.fixture
def tenant(desk: Desk) -> Desk:
    desk("tenants", "add", "acme")
    return desk


def find(desk: Desk, key: str, now_ms: int | None = None) -> object:
    """As a server would."""
    db = open_reader(desk.folder / "accounts.db")
    directory = Directory.load(db, read_secret(desk.folder / "secret"), DEFAULT_API)
    db.close()
    return directory.find(key.encode(), now_ms or time.time_ns() // 1_000_000)


def test_a_key_is_shown_once_and_alone(tenant: Desk) -> None:
    made = tenant("keys", "create", "acme")
    assert re.fullmatch(r"sk-[0-9A-Za-z]{43}\n", made.out)
    plain = made.out.strip()
    assert "shown this once" in made.err
    assert plain not in made.err
    found = find(tenant, plain)
    assert getattr(found, "tenant_id", None) == "acme"
    (listed,) = tenant("keys", "list", "--json").json
    assert listed["shown"] == f"sk-…{plain[-4:]}"
    assert "digest" not in listed
    everything = tenant("keys", "list").out + tenant("keys", "show", listed["id"]).out
    everything += tenant("tenants", "changes").out
    for path in tenant.folder.iterdir():
        everything += path.read_bytes().decode("latin-1")
    assert plain not in everything
    assert plain[3:-4] not in everything


def test_scopes_limits_and_expiry(tenant: Desk) -> None:
    tenant("users", "add", "acme", "ann")
    before = time.time_ns() // 1_000_000
    made = tenant(
        *("keys", "create", "acme", "--user", "ann", "--name", "laptop", "--expires", "90d"),
        *("--model", "r1", "--model", "v3", "--route", "chat"),
        *("--limit", "requests-per-minute=60", "--json"),
    ).json
    assert made["models"] == ["r1", "v3"]
    assert made["routes"] == ["chat"]
    assert made["limits"]["requests_per_minute"] == 60
    assert 0 <= made["expires_ms"] - before - 90 * DAY_MS < 60_000
    assert made["key"].startswith("sk-")
    assert find(tenant, made["key"], made["expires_ms"]) is not None
    shown = tenant("keys", "show", made["id"]).out
    for text in ("laptop", "r1, v3", "requests-per-minute=60", "active", "ann"):
        assert text in shown
    changed = tenant(
        *("keys", "set", made["id"], "--model", "all", "--expires", "never"),
        *("--limit", "concurrency=2", "--json"),
    ).json
    assert changed["models"] is None
    assert changed["routes"] == ["chat"]
    assert changed["expires_ms"] is None
    assert changed["limits"]["requests_per_minute"] == 60
    assert changed["limits"]["concurrency"] == 2
    assert changed["name"] == "laptop"


def test_pause_resume_revoke(tenant: Desk) -> None:
    made = tenant("keys", "create", "acme", "--json").json
    plain, key_id = made["key"], made["id"]
    tenant("keys", "pause", key_id)
    assert find(tenant, plain) is Denial.PAUSED
    tenant("keys", "resume", key_id)
    assert not isinstance(find(tenant, plain), Denial | None)
    assert "revoked" in tenant("keys", "revoke", key_id).out
    assert isinstance(find(tenant, plain), Denial | None)
    assert "for ever" in tenant("keys", "resume", key_id, fails=True).err
    tenant("keys", "revoke", key_id)  # once more changes nothing


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("acme", "--user", "bob"), "no user 'bob'"),
        (("zeta",), "no tenant 'zeta'"),
        (("acme", "--expires", "soon"), "--expires 'soon' is not a time"),
        (("acme", "--expires", "2020-01-01"), "not after now"),
        (("acme", "--expires", "999999d"), "above the limit of 36525d"),
        (("acme", "--route", "everything"), "everything"),
        (("acme", "--model", "all", "--model", "r1"), "--model all stands alone"),
        (("acme", "--model", ""), "empty name"),
    ],
)
def test_what_is_refused(tenant: Desk, words: tuple[str, ...], says: str) -> None:
    refused = tenant("keys", "create", *words, fails=True)
    assert refused.code == 2
    assert says in refused.err
    assert refused.out == ""
    assert tenant("keys", "list", "--json").json == []


def test_keys_that_are_not_there(tenant: Desk) -> None:
    assert "no key with the id" in tenant("keys", "show", "key-x", fails=True).err
    assert "no tenant" in tenant("keys", "list", "zeta", fails=True).err
    made = tenant("keys", "create", "acme", "--json").json
    assert "nothing is to be changed" in tenant("keys", "set", made["id"], fails=True).err


def test_another_secret_is_noticed(tenant: Desk) -> None:
    tenant("keys", "create", "acme")
    (tenant.folder / "secret").write_bytes(bytes(32))
    refused = tenant("keys", "create", "acme", fails=True)
    assert refused.code == 2
    assert "another secret" in refused.err
