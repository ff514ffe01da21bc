"""/admin/keys: API keys, each shown once, when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import UnsetType
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.principal import NO_LIMITS
from tribody.server.admin.state import (
    WHO,
    answered,
    body_of,
    parameters_of,
    state_of,
)
from tribody.server.admin.tenants import checked_id, limits_with, shown_limits
from tribody.server.admin.types import KeyGiven, KeyList, KeyMade, KeyPatch, KeyShown, KeysQuery
from tribody.server.queries import page
from tribody.storage.database import Database
from tribody.tenancy import store
from tribody.tenancy.records import Key, KeyChange, NewKey


async def list_keys(http: HttpRequest) -> Response:
    """GET: one tenant's, or everybody's; revoked ones too."""
    query = parameters_of(http, KeysQuery)
    tenant_id = query.tenant_id

    def find(db: Database) -> list[Key]:
        if tenant_id is not None:
            store.find_tenant(db, checked_id("tenant", tenant_id))
        return store.all_keys(db, tenant_id)

    found = await state_of(http).read(find)
    listed, has_more = page(found, query.after, query.limit, lambda key: key.id)
    return answered(KeyList(data=[shown(key) for key in listed], has_more=has_more))


async def create_key(http: HttpRequest) -> Response:
    """POST.  The answer holds the key, which is kept nowhere."""
    state, given = state_of(http), await body_of(http, KeyGiven)
    new = NewKey(
        tenant_id=given.tenant_id,
        user_id=given.user_id,
        name=given.name,
        expires_ms=given.expires_ms,
        models=None if given.models is None else frozenset(given.models),
        routes=None if given.routes is None else frozenset(given.routes),
        limits=limits_with(NO_LIMITS, given.limits),
        api=given.api,
    )
    at_ms = state.now_ms()
    key, plain = await state.write(
        lambda db: store.add_key(db, state.secret, new, at_ms=at_ms, who=WHO)
    )
    return answered(KeyMade(key=plain, **msgspec.structs.asdict(shown(key))))


async def show_key(http: HttpRequest) -> Response:
    """GET."""
    key_id = _key_of(http)
    return answered(shown(await state_of(http).read(lambda db: store.find_key(db, key_id))))


async def change_key(http: HttpRequest) -> Response:
    """PATCH: pause it, too."""
    state, key_id, given = state_of(http), _key_of(http), await body_of(http, KeyPatch)
    at_ms = state.now_ms()

    def change(db: Database) -> Key:
        wanted = KeyChange(
            name=given.name,
            expires_ms=given.expires_ms,
            models=_scope(given.models),
            routes=_scope(given.routes),
            limits=limits_with(store.find_key(db, key_id).limits, given.limits),
            is_paused=given.is_paused,
            api=given.api,
        )
        return store.change_key(db, key_id, wanted, at_ms=at_ms, who=WHO)

    return answered(shown(await state.write(change)))


async def revoke_key(http: HttpRequest) -> Response:
    """POST: for ever.  Once more changes nothing."""
    state = state_of(http)
    work = partial(store.revoke_key, key_id=_key_of(http), at_ms=state.now_ms(), who=WHO)
    return answered(shown(await state.write(work)))


def _key_of(http: HttpRequest) -> str:
    return checked_id("key", http.path_params["key_id"])


def _scope(given: Sequence[str] | UnsetType | None) -> frozenset[str] | UnsetType | None:
    return given if given is None or isinstance(given, UnsetType) else frozenset(given)


def shown(key: Key) -> KeyShown:
    return KeyShown(
        id=key.id,
        tenant_id=key.tenant_id,
        user_id=key.user_id,
        name=key.name,
        shown=key.shown,
        created_ms=key.created_ms,
        expires_ms=key.expires_ms,
        revoked_ms=key.revoked_ms,
        is_paused=key.is_paused,
        models=None if key.models is None else sorted(key.models),
        routes=None if key.routes is None else sorted(key.routes),
        limits=shown_limits(key.limits),
        api=key.api,
    )
