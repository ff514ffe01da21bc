"""What `tribody tenants` and `tribody users` do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from tribody.billing.ledger import balances
from tribody.billing.money import parse_micro, show_micro
from tribody.billing.records import Balance
from tribody.cli.account_flags import Where
from tribody.cli.account_texts import parse_limits, show_limits, show_time
from tribody.cli.accounts import Accounts, open_accounts
from tribody.cli.tables import print_json, print_pairs, print_table
from tribody.core.errors import BadConfig
from tribody.core.principal import NO_LIMITS, Limits
from tribody.tenancy import store
from tribody.tenancy.records import Tenant, TenantChange, User


@dataclass(frozen=True)
class TenantOptions:
    """As typed; None and [] where nothing was."""

    name: str | None
    weight: int | None
    slo: str | None
    credit: str | None
    limits: list[str]
    api: str | None

    def fields(self, limits: Limits) -> dict[str, object]:
        """What is given, by the fields of a tenant.  Raises: BadConfig."""
        given: dict[str, object] = {
            "name": self.name,
            "weight": self.weight,
            "slo": self.slo,
            "credit_micro": None if self.credit is None else parse_micro("--credit", self.credit),
            "limits": parse_limits(self.limits, limits) if self.limits else None,
            "api": self.api,
        }
        return {name: value for name, value in given.items() if value is not None}


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """As `--json` prints it."""

    tenant: Tenant
    balances: list[Balance]
    users: list[User]
    num_keys: int


def add(tenant_id: str, currency: str, options: TenantOptions, where: Where) -> None:
    fields = {"id": tenant_id, "currency": currency} | options.fields(NO_LIMITS)
    tenant = _converted(fields, Tenant)
    with open_accounts(where, make=True) as accounts:
        added = store.add_tenant(accounts.db, tenant, at_ms=accounts.at_ms, who=accounts.who)
        _print(accounts, added, where)


def change(tenant_id: str, options: TenantOptions, where: Where) -> None:
    with open_accounts(where) as accounts, accounts.db.transaction():
        before = store.find_tenant(accounts.db, tenant_id)
        fields = options.fields(before.limits)
        if not fields:
            raise BadConfig("nothing is to be changed; name an option, such as --weight 2")
        _change(accounts, tenant_id, _converted(fields, TenantChange), where)


def pause(tenant_id: str, where: Where, *, paused: bool) -> None:
    with open_accounts(where) as accounts:
        _change(accounts, tenant_id, TenantChange(is_paused=paused), where)


def _change(accounts: Accounts, tenant_id: str, change: TenantChange, where: Where) -> None:
    after = store.change_tenant(
        accounts.db, tenant_id, change, at_ms=accounts.at_ms, who=accounts.who
    )
    _print(accounts, after, where)


def show(tenant_id: str, where: Where) -> None:
    with open_accounts(where) as accounts:
        _print(accounts, store.find_tenant(accounts.db, tenant_id), where)


def list_all(where: Where) -> None:
    with open_accounts(where) as accounts:
        views = [_view(accounts, tenant) for tenant in store.all_tenants(accounts.db)]
    if where.as_json:
        print_json(views)
        return
    print_table(
        ("tenant", "name", ">keys", "weight", "slo", "state", "balance", "limits"),
        [
            (
                view.tenant.id,
                view.tenant.name,
                str(view.num_keys),
                str(view.tenant.weight),
                view.tenant.slo,
                "paused" if view.tenant.is_paused else "active",
                ", ".join(show_balance(balance) for balance in view.balances) or "0.00",
                show_limits(view.tenant.limits),
            )
            for view in views
        ],
    )


def changes(after: int, where: Where) -> None:
    with open_accounts(where) as accounts:
        found: list[store.Change] = []
        while page := store.all_changes(accounts.db, after=found[-1].number if found else after):
            found += page
    if where.as_json:
        print_json(found)
        return
    print_table(
        (">number", "when", "who", "what", "subject", "detail"),
        [
            (str(one.number), show_time(one.at_ms), one.who, one.what, one.subject, one.detail)
            for one in found
        ],
    )


def add_user(tenant_id: str, user_id: str, name: str, where: Where) -> None:
    user = User(id=user_id, tenant_id=tenant_id, name=name)
    with open_accounts(where) as accounts:
        added = store.add_user(accounts.db, user, at_ms=accounts.at_ms, who=accounts.who)
    if where.as_json:
        print_json(added)
    else:
        print(f"user {added.id} of {added.tenant_id}")


def list_users(tenant_id: str, where: Where) -> None:
    with open_accounts(where) as accounts:
        store.find_tenant(accounts.db, tenant_id)
        found = store.all_users(accounts.db, tenant_id)
    if where.as_json:
        print_json(found)
    else:
        print_table(
            ("user", "name", "since"),
            [(user.id, user.name, show_time(user.created_ms)) for user in found],
        )


def show_balance(balance: Balance) -> str:
    """`12.50 CNY`, of it what running requests hold."""
    text = f"{show_micro(balance.granted_micro + balance.topped_up_micro)} {balance.currency}"
    return f"{text} ({show_micro(balance.held_micro)} held)" if balance.held_micro else text


def _view(accounts: Accounts, tenant: Tenant) -> TenantView:
    return TenantView(
        tenant=tenant,
        balances=balances(accounts.db, tenant.id),
        users=store.all_users(accounts.db, tenant.id),
        num_keys=len(store.all_keys(accounts.db, tenant.id)),
    )


def _print(accounts: Accounts, tenant: Tenant, where: Where) -> None:
    view = _view(accounts, tenant)
    if where.as_json:
        print_json(view)
        return
    credit = show_micro(tenant.credit_micro) if tenant.credit_micro else ""
    print_pairs(
        [
            ("tenant", tenant.id),
            ("name", tenant.name),
            ("state", "paused" if tenant.is_paused else "active"),
            ("currency", tenant.currency),
            ("balance", ", ".join(show_balance(one) for one in view.balances) or "0.00"),
            ("credit", credit),
            ("weight", str(tenant.weight)),
            ("slo", tenant.slo),
            ("limits", show_limits(tenant.limits)),
            ("api", tenant.api),
            ("users", ", ".join(user.id for user in view.users)),
            ("keys", str(view.num_keys)),
            ("since", show_time(tenant.created_ms)),
        ]
    )


Made = TypeVar("Made", Tenant, TenantChange)


def _converted(fields: dict[str, object], to: type[Made]) -> Made:
    """Raises: BadConfig for a choice that is none."""
    try:
        return msgspec.convert(fields, to)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{error}; tribody tenants add --help lists the choices") from None
