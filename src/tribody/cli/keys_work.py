"""What `tribody keys` does.  Only `create` ever prints a key, and no digest is printed at all."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import msgspec

from tribody.cli.account_flags import Where
from tribody.cli.account_texts import parse_expiry, parse_limits, show_limits, show_time
from tribody.cli.accounts import open_accounts
from tribody.cli.tables import print_json, print_pairs, print_table
from tribody.core.errors import BadConfig
from tribody.core.principal import NO_LIMITS, Limits
from tribody.tenancy import store
from tribody.tenancy.keys import read_secret
from tribody.tenancy.records import Key, KeyChange, NewKey

NEVER = "never"
ALL = "all"


@dataclass(frozen=True)
class KeyOptions:
    """As typed; None and [] where nothing was."""

    name: str | None
    expires: str | None
    models: list[str]
    routes: list[str]
    limits: list[str]
    api: str | None

    def fields(self, limits: Limits, now_ms: int) -> dict[str, object]:
        """What is given, by the fields of a key.  Raises: BadConfig."""
        given: dict[str, object] = {}
        if self.name is not None:
            given["name"] = self.name
        if self.expires is not None:
            never = self.expires == NEVER
            given["expires_ms"] = None if never else parse_expiry(self.expires, now_ms)
        if self.models:
            given["models"] = _scope("--model", self.models)
        if self.routes:
            given["routes"] = _scope("--route", self.routes)
        if self.limits:
            given["limits"] = parse_limits(self.limits, limits)
        if self.api is not None:
            given["api"] = self.api
        return given


def _scope(option: str, names: list[str]) -> frozenset[str] | None:
    if ALL not in names:
        return frozenset(names)
    if len(names) > 1:
        raise BadConfig(f"{option} {ALL} stands alone; leave the other names out")
    return None


def create(tenant_id: str, user_id: str, options: KeyOptions, where: Where) -> None:
    with open_accounts(where) as accounts:
        given = options.fields(NO_LIMITS, accounts.at_ms)
        new = msgspec.convert({"tenant_id": tenant_id, "user_id": user_id} | given, NewKey)
        secret = read_secret(accounts.secret_path)
        key, plain = store.add_key(accounts.db, secret, new, at_ms=accounts.at_ms, who=accounts.who)
    if where.as_json:
        print_json({"key": plain} | _view(key))
        return
    until = f", until {show_time(key.expires_ms)}" if key.expires_ms is not None else ""
    print(
        f"{key.id} of {key.tenant_id}{until}.  The key is shown this once; keep it now:",
        file=sys.stderr,
    )
    print(plain)


def list_all(tenant_id: str | None, where: Where) -> None:
    with open_accounts(where) as accounts:
        if tenant_id is not None:
            store.find_tenant(accounts.db, tenant_id)
        found = store.all_keys(accounts.db, tenant_id)
        now_ms = accounts.at_ms
    if where.as_json:
        print_json([_view(key) for key in found])
        return
    print_table(
        ("key-id", "tenant", "user", "name", "key", "state", "expires", "models", "routes"),
        [
            (
                key.id,
                key.tenant_id,
                key.user_id,
                key.name,
                key.shown,
                _state(key, now_ms),
                show_time(key.expires_ms) or NEVER,
                _names(key.models),
                _names(key.routes),
            )
            for key in found
        ],
    )


def show(key_id: str, where: Where) -> None:
    with open_accounts(where) as accounts:
        _print(store.find_key(accounts.db, key_id), accounts.at_ms, where)


def change(key_id: str, options: KeyOptions, where: Where) -> None:
    with open_accounts(where) as accounts, accounts.db.transaction():
        before = store.find_key(accounts.db, key_id)
        given = options.fields(before.limits, accounts.at_ms)
        if not given:
            raise BadConfig("nothing is to be changed; name an option, such as --expires 90d")
        change = msgspec.convert(given, KeyChange)
        after = store.change_key(
            accounts.db, key_id, change, at_ms=accounts.at_ms, who=accounts.who
        )
        _print(after, accounts.at_ms, where)


def revoke(key_id: str, where: Where) -> None:
    with open_accounts(where) as accounts:
        after = store.revoke_key(accounts.db, key_id, at_ms=accounts.at_ms, who=accounts.who)
        _print(after, accounts.at_ms, where)


def pause(key_id: str, where: Where, *, paused: bool) -> None:
    change = KeyChange(is_paused=paused)
    with open_accounts(where) as accounts:
        after = store.change_key(
            accounts.db, key_id, change, at_ms=accounts.at_ms, who=accounts.who
        )
        _print(after, accounts.at_ms, where)


def _view(key: Key) -> dict[str, object]:
    """A key as others may see it."""
    fields: dict[str, object] = msgspec.to_builtins(key, order="deterministic")
    del fields["digest"]
    return fields


def _state(key: Key, now_ms: int) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    if key.expires_ms is not None and key.expires_ms <= now_ms:
        return "expired"
    return "paused" if key.is_paused else "active"


def _names(scope: frozenset[str] | None) -> str:
    return ALL if scope is None else ", ".join(sorted(scope))


def _print(key: Key, now_ms: int, where: Where) -> None:
    if where.as_json:
        print_json(_view(key))
        return
    print_pairs(
        [
            ("key-id", key.id),
            ("key", key.shown),
            ("tenant", key.tenant_id),
            ("user", key.user_id),
            ("name", key.name),
            ("state", _state(key, now_ms)),
            ("expires", show_time(key.expires_ms) or NEVER),
            ("revoked", show_time(key.revoked_ms)),
            ("models", _names(key.models)),
            ("routes", _names(key.routes)),
            ("limits", show_limits(key.limits)),
            ("api", key.api),
            ("since", show_time(key.created_ms)),
        ]
    )
