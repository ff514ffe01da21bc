"""One table of all routes of the admin API, as `server.routes` is of the public one."""

from __future__ import annotations

from functools import partial

import msgspec

from tribody.server.admin import book_types, books, keys, prices, status, tenants, transfers, types
from tribody.server.admin.verification import Verification
from tribody.server.api_route import ApiRoute, Endpoint, Labels

OPENAPI_PATH = "/openapi.json"

_route = partial(ApiRoute, scope="admin")
_TENANT = "/admin/tenants/{tenant_id}"
_KEY = "/admin/keys/{key_id}"


def _movement(
    name: str, endpoint: Endpoint, summary: str, given: type[msgspec.Struct] = types.TransferGiven
) -> ApiRoute:
    return _route(
        paths=(f"{_TENANT}/{name}",),
        endpoint=endpoint,
        summary=summary,
        request=given,
        response=types.TransferShown,
        needs_idempotency_key=True,
    )


ROUTES = (
    # --- tenants and their users
    _route(
        paths=("/admin/tenants",),
        endpoint=tenants.list_tenants,
        summary="List the tenants",
        query=types.ListQuery,
        response=types.TenantList,
    ),
    _route(
        paths=("/admin/tenants",),
        endpoint=tenants.create_tenant,
        summary="Add a tenant",
        request=types.TenantGiven,
        response=types.TenantShown,
    ),
    _route(
        paths=(_TENANT,),
        endpoint=tenants.show_tenant,
        summary="Show a tenant",
        response=types.TenantShown,
    ),
    _route(
        paths=(_TENANT,),
        endpoint=tenants.change_tenant,
        summary="Change a tenant, or pause it",
        request=types.TenantPatch,
        verb="PATCH",
        response=types.TenantShown,
    ),
    _route(
        paths=(f"{_TENANT}/users",),
        endpoint=tenants.list_users,
        summary="List a tenant's users",
        query=types.ListQuery,
        response=types.UserList,
    ),
    _route(
        paths=(f"{_TENANT}/users",),
        endpoint=tenants.create_user,
        summary="Add a user",
        request=types.UserGiven,
        response=types.UserShown,
    ),
    # --- keys
    _route(
        paths=("/admin/keys",),
        endpoint=keys.list_keys,
        summary="List API keys",
        query=types.KeysQuery,
        response=types.KeyList,
    ),
    _route(
        paths=("/admin/keys",),
        endpoint=keys.create_key,
        summary="Make an API key; the answer alone holds it",
        request=types.KeyGiven,
        response=types.KeyMade,
    ),
    _route(
        paths=(_KEY,),
        endpoint=keys.show_key,
        summary="Show an API key's record",
        response=types.KeyShown,
    ),
    _route(
        paths=(_KEY,),
        endpoint=keys.change_key,
        summary="Change an API key's terms, or pause it",
        request=types.KeyPatch,
        verb="PATCH",
        response=types.KeyShown,
    ),
    _route(
        paths=(f"{_KEY}/revoke",),
        endpoint=keys.revoke_key,
        summary="Revoke an API key for ever",
        verb="POST",
        response=types.KeyShown,
    ),
    # --- money
    _route(
        paths=(f"{_TENANT}/balance",),
        endpoint=transfers.show_balance,
        summary="Show what a tenant has",
        response=types.BalanceList,
    ),
    _movement("top-ups", transfers.top_up, "Book what a tenant has paid"),
    _movement("grants", transfers.grant, "Give a tenant money, which is spent first"),
    _movement("refunds", transfers.refund, "Book what was paid back to a tenant"),
    _movement(
        "adjustments",
        transfers.adjust,
        "Correct a balance, up or down",
        types.AdjustmentGiven,
    ),
    _route(
        paths=(f"{_TENANT}/statement",),
        endpoint=books.statement,
        summary="Show what came and went in a period, by rule",
        query=book_types.StatementQuery,
        response=book_types.StatementShown,
    ),
    # --- the books
    _route(
        paths=("/admin/usage",),
        endpoint=books.usage,
        summary="Sum up what was used",
        query=book_types.UsageQuery,
        response=book_types.UsageList,
    ),
    _route(
        paths=("/admin/reservations",),
        endpoint=books.reservations,
        summary="List what is held for requests under way",
        query=book_types.ReservationsQuery,
        response=book_types.ReservationList,
    ),
    _route(
        paths=("/admin/ledger/entries",),
        endpoint=books.entries,
        summary="List the ledger's entries",
        query=book_types.EntriesQuery,
        response=book_types.EntryList,
    ),
    _route(
        paths=("/admin/ledger/verifications",),
        endpoint=books.list_verifications,
        summary="List the latest verifications",
        response=book_types.VerificationList,
    ),
    _route(
        paths=("/admin/ledger/verifications",),
        endpoint=books.start_verification,
        summary="Begin to verify the ledger",
        verb="POST",
        response=Verification,
    ),
    _route(
        paths=("/admin/ledger/verifications/{verification_id}",),
        endpoint=books.show_verification,
        summary="Show how far a verification is, or what it found",
        response=Verification,
    ),
    # --- prices
    _route(
        paths=("/admin/tariff",),
        endpoint=prices.show_tariff,
        summary="Show the price list in use",
        response=book_types.TariffShown,
    ),
    _route(
        paths=("/admin/tariff",),
        endpoint=prices.use_tariff,
        summary="Put a price list to use",
        request=book_types.TariffGiven,
        verb="PUT",
        response=book_types.TariffShown,
    ),
    _route(
        paths=("/admin/tariff/check",),
        endpoint=prices.check_tariff,
        summary="Say what is wrong with a price list",
        request=book_types.TariffGiven,
        response=book_types.TariffChecked,
    ),
    _route(
        paths=("/admin/tariff/history",),
        endpoint=prices.tariff_history,
        summary="List the price lists that were put to use",
        response=book_types.TariffHistory,
    ),
    _route(
        paths=("/admin/tariff/history/{digest}",),
        endpoint=prices.show_old_tariff,
        summary="Show a price list that was in use",
        response=book_types.TariffShown,
    ),
    # --- the server
    _route(
        paths=("/admin/status",),
        endpoint=status.show_status,
        summary="Tell how the books are doing",
        response=book_types.StatusShown,
    ),
)

LABELS = Labels(ROUTES, [OPENAPI_PATH])
