"""`tribody tenants` and `tribody users`: who may use the server, and how much."""

from __future__ import annotations

from typing import Annotated

import typer

from tribody.cli.account_flags import (
    AccountApi,
    AccountName,
    AccountsDir,
    AsJson,
    LimitTexts,
    TenantId,
    Where,
)
from tribody.cli.flags import Database

tenants = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
users = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

NewId = Annotated[str, typer.Argument(metavar="ID", help="a-z, 0-9 and -, at most 63.")]
Weight = Annotated[int | None, typer.Option(help="Its share beside other tenants (default: 1).")]
Slo = Annotated[
    str | None, typer.Option(help="interactive (default) or background: after all others.")
]
Credit = Annotated[
    str | None, typer.Option(help="How far below zero its balance may fall (default: 0).")
]


@tenants.command()
def add(
    tenant: NewId,
    name: AccountName = None,
    currency: Annotated[str, typer.Option(help="Of its money, for good: CNY or USD.")] = "CNY",
    weight: Weight = None,
    slo: Slo = None,
    credit: Credit = None,
    limit: LimitTexts = None,
    api: AccountApi = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Add a tenant: whoever pays."""
    from tribody.cli import tenants_work as command

    given = command.TenantOptions(name, weight, slo, credit, limit or [], api)
    command.add(tenant, currency, given, Where(data_dir, database, as_json))


@tenants.command("set")
def set_(
    tenant: TenantId,
    name: AccountName = None,
    weight: Weight = None,
    slo: Slo = None,
    credit: Credit = None,
    limit: LimitTexts = None,
    api: AccountApi = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Change what is given; the rest stays."""
    from tribody.cli import tenants_work as command

    given = command.TenantOptions(name, weight, slo, credit, limit or [], api)
    command.change(tenant, given, Where(data_dir, database, as_json))


@tenants.command("list")
def list_(as_json: AsJson = False, data_dir: AccountsDir = None, database: Database = None) -> None:
    """All tenants with their balances."""
    from tribody.cli import tenants_work as command

    command.list_all(Where(data_dir, database, as_json))


@tenants.command()
def show(
    tenant: TenantId,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """One tenant: settings, balances, users, keys."""
    from tribody.cli import tenants_work as command

    command.show(tenant, Where(data_dir, database, as_json))


@tenants.command()
def pause(
    tenant: TenantId,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Deny all its keys until it is resumed."""
    from tribody.cli import tenants_work as command

    command.pause(tenant, Where(data_dir, database, as_json), paused=True)


@tenants.command()
def resume(
    tenant: TenantId,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Let its keys work again."""
    from tribody.cli import tenants_work as command

    command.pause(tenant, Where(data_dir, database, as_json), paused=False)


@tenants.command()
def changes(
    after: Annotated[int, typer.Option(min=0, help="Only those behind this number.")] = 0,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Who changed tenants, users and keys, when, and how."""
    from tribody.cli import tenants_work as command

    command.changes(after, Where(data_dir, database, as_json))


@users.command("add")
def add_user(
    tenant: TenantId,
    user: NewId,
    name: AccountName = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Add somebody at a tenant, for whom keys are made."""
    from tribody.cli import tenants_work as command

    command.add_user(tenant, user, name or "", Where(data_dir, database, as_json))


@users.command("list")
def list_users(
    tenant: TenantId,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """A tenant's users."""
    from tribody.cli import tenants_work as command

    command.list_users(tenant, Where(data_dir, database, as_json))
