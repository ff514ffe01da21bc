"""From a key to the principal it stands for, in microseconds: the accounts as a snapshot in memory.

Default deny: what is not found, not understood, revoked, expired or paused is not let in.  The
snapshot never changes; a `LiveDirectory` puts another in its place when the database has one.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from tribody.core.api_settings import ApiSettings, with_options
from tribody.core.errors import StorageFailed
from tribody.core.principal import Principal
from tribody.storage.database import Database
from tribody.tenancy import keys, store
from tribody.tenancy.records import Key, Tenant


class Denial(enum.Enum):
    """Why nobody is let in.  Only who holds a key learns that it is paused; the others look alike
    from outside."""

    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One key: who it stands for, and what may speak against that."""

    digest: bytes
    principal: Principal | None  # None: nobody
    is_revoked: bool = False
    expires_ms: int | None = None
    is_paused: bool = False  # the key or its tenant

    def find(self, now_ms: int) -> Principal | Denial:
        if self.principal is None:
            return Denial.UNKNOWN
        if self.is_revoked:
            return Denial.REVOKED
        if self.expires_ms is not None and now_ms >= self.expires_ms:
            return Denial.EXPIRED
        return Denial.PAUSED if self.is_paused else self.principal


_NOBODY = _Entry(b"\0" * 32, None)  # compared with where a digest is not found


class Directory:
    """One state of the accounts.  `unreadable`: what was wrong with records that are left out."""

    def __init__(
        self,
        secret: bytes,
        entries: Mapping[str, _Entry],
        *,
        num_tenants: int,
        revision: int,
        unreadable: tuple[str, ...] = (),
    ) -> None:
        """`entries` by key id; `num_tenants`: those that are not paused."""
        self.num_tenants = num_tenants
        self.revision = revision
        self.unreadable = unreadable
        self._secret = secret
        self._entries = entries
        self._by_digest = {entry.digest: entry for entry in entries.values()}

    @classmethod
    def load(cls, db: Database, secret: bytes, default_api: ApiSettings) -> Directory:
        """Read everything.  A change made meanwhile may be half in it, but then the database has a
        later revision than the snapshot, which is read first.

        Raises: StorageFailed; BadConfig when the keys were made with another secret.
        """
        revision = store.revision(db)
        store.check_secret(db, secret)
        unreadable: list[str] = []
        kept = _understood(db, Key, unreadable)
        tenants = _understood(db, Tenant, unreadable)
        principals: dict[str, Principal] = {}
        for tenant in tenants:
            try:
                principals[tenant.id] = _of_tenant(tenant, secret, default_api)
            except ValueError as error:
                unreadable.append(f"the options of the tenant {tenant.id!r}: {error}")
        paused = {tenant.id for tenant in tenants if tenant.is_paused}
        entries: dict[str, _Entry] = {}
        for key in kept:
            try:
                principal = _of_key(key, principals[key.tenant_id])
                digest = bytes.fromhex(key.digest)
            except (KeyError, ValueError) as error:
                unreadable.append(f"the key {key.id!r}: {error}")
                continue
            entries[key.id] = _Entry(
                digest,
                principal,
                is_revoked=key.revoked_ms is not None,
                expires_ms=key.expires_ms,
                is_paused=key.is_paused or key.tenant_id in paused,
            )
        return cls(
            secret,
            entries,
            num_tenants=len(principals.keys() - paused),
            revision=revision,
            unreadable=tuple(unreadable),
        )

    def find(self, key: bytes, now_ms: int) -> Principal | Denial:
        """Whom this key stands for at that instant, or why nobody.

        The digest is keyed, so that how long its look-up takes says nothing about any key.
        """
        if len(key) > keys.MAX_KEY_BYTES:
            return Denial.UNKNOWN
        digest = keys.digest(self._secret, key)
        entry = self._by_digest.get(digest, _NOBODY)
        if not hmac.compare_digest(entry.digest, digest):
            return Denial.UNKNOWN
        return entry.find(now_ms)

    def of_key(self, key_id: str, now_ms: int) -> Principal | Denial:
        """As `find`, for work that is left and remembers whose key it came with."""
        return self._entries.get(key_id, _NOBODY).find(now_ms)


def _understood(
    db: Database, kind: type[store.Record], unreadable: list[str]
) -> list[store.Record]:
    """Records that cannot be understood deny themselves, not everybody."""
    found = []
    for row in store.record_rows(db, kind):
        try:
            found.append(store.record_of(kind, row))
        except StorageFailed as error:
            unreadable.append(str(error))
    return found


def _of_tenant(tenant: Tenant, secret: bytes, default_api: ApiSettings) -> Principal:
    """What all keys of a tenant have in common."""
    return Principal(
        tenant_id=tenant.id,
        key_id="none",
        api=with_options(default_api, tenant.api),
        priority=tenant.slo,
        weight=tenant.weight,
        kv_salt=keys.kv_salt(secret, tenant.id),
        tenant_limits=tenant.limits,
        is_charged=True,
        currency=tenant.currency,
        credit_micro=tenant.credit_micro,
    )


def _of_key(key: Key, tenant: Principal) -> Principal:
    return msgspec.structs.replace(
        tenant,
        key_id=key.id,
        user_id=key.user_id,
        api=with_options(tenant.api, key.api),
        models=key.models,
        routes=key.routes,
        key_limits=key.limits,
    )
