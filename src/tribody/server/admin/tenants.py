"""/admin/tenants and their users: who pays, and on which terms."""

from __future__ import annotations

from functools import partial

import msgspec
from msgspec import UNSET
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.principal import NO_LIMITS, Limits
from tribody.server.admin.amounts import amount_text, micro_of
from tribody.server.admin.state import (
    WHO,
    answered,
    body_of,
    no_such,
    parameters_of,
    state_of,
)
from tribody.server.admin.types import (
    LimitsGiven,
    LimitsShown,
    ListQuery,
    TenantGiven,
    TenantList,
    TenantPatch,
    TenantShown,
    UserGiven,
    UserList,
    UserShown,
)
from tribody.server.queries import page
from tribody.storage.database import Database
from tribody.tenancy import store
from tribody.tenancy.records import ID, Tenant, TenantChange, User

MONEY_LIMITS = {"micro_per_day": "money_per_day", "micro_per_month": "money_per_month"}


async def list_tenants(http: HttpRequest) -> Response:
    """GET: in the order in which they were added."""
    query = parameters_of(http, ListQuery)
    found = await state_of(http).read(store.all_tenants)
    listed, has_more = page(found, query.after, query.limit, lambda tenant: tenant.id)
    return answered(TenantList(data=[shown(tenant) for tenant in listed], has_more=has_more))


async def create_tenant(http: HttpRequest) -> Response:
    """POST."""
    state, given = state_of(http), await body_of(http, TenantGiven)
    tenant = Tenant(
        id=given.id,
        name=given.name,
        currency=given.currency,
        weight=given.weight,
        slo=given.slo,
        limits=limits_with(NO_LIMITS, given.limits),
        credit_micro=micro_of("credit", given.credit),
        is_paused=given.is_paused,
        api=given.api,
    )
    work = partial(store.add_tenant, tenant=tenant, at_ms=state.now_ms(), who=WHO)
    return answered(shown(await state.write(work)))


async def show_tenant(http: HttpRequest) -> Response:
    """GET."""
    tenant_id = tenant_of(http)
    return answered(shown(await state_of(http).read(lambda db: store.find_tenant(db, tenant_id))))


async def change_tenant(http: HttpRequest) -> Response:
    """PATCH: pause it, too."""
    state, tenant_id = state_of(http), tenant_of(http)
    given = await body_of(http, TenantPatch)
    credit = UNSET if given.credit is UNSET else micro_of("credit", given.credit)
    at_ms = state.now_ms()

    def change(db: Database) -> Tenant:
        before = store.find_tenant(db, tenant_id)
        wanted = TenantChange(
            name=given.name,
            weight=given.weight,
            slo=given.slo,
            limits=limits_with(before.limits, given.limits),
            credit_micro=credit,
            is_paused=given.is_paused,
            api=given.api,
        )
        return store.change_tenant(db, tenant_id, wanted, at_ms=at_ms, who=WHO)

    return answered(shown(await state.write(change)))


async def list_users(http: HttpRequest) -> Response:
    """GET: a tenant's."""
    tenant_id, query = tenant_of(http), parameters_of(http, ListQuery)

    def find(db: Database) -> list[User]:
        store.find_tenant(db, tenant_id)
        return store.all_users(db, tenant_id)

    found = await state_of(http).read(find)
    listed, has_more = page(found, query.after, query.limit, lambda user: user.id)
    return answered(UserList(data=[_shown_user(user) for user in listed], has_more=has_more))


async def create_user(http: HttpRequest) -> Response:
    """POST."""
    state, tenant_id = state_of(http), tenant_of(http)
    given = await body_of(http, UserGiven)
    user = User(id=given.id, tenant_id=tenant_id, name=given.name)
    work = partial(store.add_user, user=user, at_ms=state.now_ms(), who=WHO)
    return answered(_shown_user(await state.write(work)))


# --- shared with keys and money ---------------------------------------------------------------


def tenant_of(http: HttpRequest) -> str:
    """The tenant in the path.  Raises: BadRequest (404) for what is no id at all."""
    return checked_id("tenant", http.path_params["tenant_id"])


def checked_id(what: str, given: str) -> str:
    """Raises: BadRequest (404) for what is no id at all."""
    if not ID.fullmatch(given):
        raise no_such(what)
    return given


def limits_with(before: Limits, given: LimitsGiven) -> Limits:
    """Raises: BadRequest for an amount that is none."""
    changes: dict[str, int] = {}
    for name in Limits.__struct_fields__:
        value = getattr(given, MONEY_LIMITS.get(name, name))
        if value is UNSET:
            continue
        if name in MONEY_LIMITS:
            value = micro_of(f"limits.{MONEY_LIMITS[name]}", value)
        changes[name] = value
    return msgspec.structs.replace(before, **changes)


def shown_limits(limits: Limits) -> LimitsShown:
    return LimitsShown(
        concurrency=limits.concurrency,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        tokens_per_day=limits.tokens_per_day,
        tokens_per_month=limits.tokens_per_month,
        money_per_day=amount_text(limits.micro_per_day),
        money_per_month=amount_text(limits.micro_per_month),
    )


def shown(tenant: Tenant) -> TenantShown:
    return TenantShown(
        id=tenant.id,
        name=tenant.name,
        currency=tenant.currency,
        weight=tenant.weight,
        slo=tenant.slo,
        limits=shown_limits(tenant.limits),
        credit=amount_text(tenant.credit_micro),
        is_paused=tenant.is_paused,
        api=tenant.api,
        created_ms=tenant.created_ms,
    )


def _shown_user(user: User) -> UserShown:
    return UserShown(
        id=user.id, tenant_id=user.tenant_id, name=user.name, created_ms=user.created_ms
    )
