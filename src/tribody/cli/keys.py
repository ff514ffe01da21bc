"""`tribody keys`: made, shown once, scoped, paused and revoked."""

from __future__ import annotations

from typing import Annotated

import typer

from tribody.cli.account_flags import (
    AccountApi,
    AccountName,
    AccountsDir,
    AsJson,
    KeyId,
    LimitTexts,
    TenantId,
    Where,
)
from tribody.cli.flags import Database

keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Expires = Annotated[
    str | None, typer.Option(help="90d, 12h, 2027-01-01 or an instant; never.", metavar="WHEN")
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="May use this model. Repeatable (all: any).")
]
Routes = Annotated[
    list[str] | None,
    typer.Option("--route", help="May use this route: chat, embeddings, … Repeatable (all: any)."),
]


@keys.command()
def create(
    tenant: TenantId,
    user: Annotated[str | None, typer.Option(help="Whose it is: a user of the tenant.")] = None,
    name: AccountName = None,
    expires: Expires = None,
    model: Models = None,
    route: Routes = None,
    limit: LimitTexts = None,
    api: AccountApi = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Make a key and print it: this once, for it is kept nowhere.

    The key alone goes to standard output, all else to standard error.
    """
    from tribody.cli import keys_work as command

    given = command.KeyOptions(name, expires, model or [], route or [], limit or [], api)
    command.create(tenant, user or "", given, Where(data_dir, database, as_json))


@keys.command("list")
def list_(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """All keys, by their ids and last four characters."""
    from tribody.cli import keys_work as command

    command.list_all(tenant, Where(data_dir, database, as_json))


@keys.command()
def show(
    key_id: KeyId,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """One key: whose it is, what it may do."""
    from tribody.cli import keys_work as command

    command.show(key_id, Where(data_dir, database, as_json))


@keys.command("set")
def set_(
    key_id: KeyId,
    name: AccountName = None,
    expires: Expires = None,
    model: Models = None,
    route: Routes = None,
    limit: LimitTexts = None,
    api: AccountApi = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Change what is given; the rest stays."""
    from tribody.cli import keys_work as command

    given = command.KeyOptions(name, expires, model or [], route or [], limit or [], api)
    command.change(key_id, given, Where(data_dir, database, as_json))


@keys.command()
def revoke(
    key_id: KeyId,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Deny it for ever."""
    from tribody.cli import keys_work as command

    command.revoke(key_id, Where(data_dir, database, as_json))


@keys.command()
def pause(
    key_id: KeyId,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Deny it until it is resumed."""
    from tribody.cli import keys_work as command

    command.pause(key_id, Where(data_dir, database, as_json), paused=True)


@keys.command()
def resume(
    key_id: KeyId,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Let it work again."""
    from tribody.cli import keys_work as command

    command.pause(key_id, Where(data_dir, database, as_json), paused=False)
