"""`tribody ledger`: money paid in and back, statements, verification, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tribody.cli.account_flags import (
    AccountsDir,
    AsJson,
    Csv,
    Days,
    FromDay,
    InMonth,
    OfTenant,
    Parquet,
    TenantId,
    ToDay,
    Where,
)
from tribody.cli.flags import Database

ledger = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Amount = Annotated[str, typer.Argument(help="In yuan (or dollars), such as 100 or 0.5.")]
Note = Annotated[str, typer.Option(help="Why; kept with it, and printed on invoices.")]
Currency = Annotated[str | None, typer.Option(help="CNY or USD (default: the tenant's).")]
Once = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key", help="The same one twice is one effect (default: drawn anew)."
    ),
]


@ledger.command()
def verify(
    known: Annotated[
        str | None,
        typer.Option(metavar="SEQUENCE:HASH", help="The end that an earlier verification gave."),
    ] = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Compute everything again: chain, sums, every charge, balances.

    Exit codes: 0 it is right, 1 it is not, 2 it could not be read.
    """
    from tribody.cli import ledger_work as command

    raise typer.Exit(command.check(known, Where(data_dir, database, as_json)))


@ledger.command()
def balance(
    tenant: Annotated[str | None, typer.Argument(help="Default: every tenant.")] = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Granted, topped up, held by running requests, available."""
    from tribody.cli import ledger_work as command

    command.balance(tenant, Where(data_dir, database, as_json))


@ledger.command("top-up")
def top_up(
    tenant: TenantId,
    amount: Amount,
    note: Note = "",
    currency: Currency = None,
    idempotency_key: Once = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """The tenant has paid."""
    from tribody.cli import ledger_work as command

    given = command.Money("top_up", tenant, amount, note, currency, idempotency_key)
    command.transfer(given, Where(data_dir, database, as_json))


@ledger.command()
def grant(
    tenant: TenantId,
    amount: Amount,
    note: Note = "",
    currency: Currency = None,
    idempotency_key: Once = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """A gift, spent before what was paid."""
    from tribody.cli import ledger_work as command

    given = command.Money("grant", tenant, amount, note, currency, idempotency_key)
    command.transfer(given, Where(data_dir, database, as_json))


@ledger.command()
def refund(
    tenant: TenantId,
    amount: Amount,
    note: Note = "",
    currency: Currency = None,
    idempotency_key: Once = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Pay back what was paid and is neither spent nor held."""
    from tribody.cli import ledger_work as command

    given = command.Money("refund", tenant, amount, note, currency, idempotency_key)
    command.transfer(given, Where(data_dir, database, as_json))


@ledger.command(context_settings={"ignore_unknown_options": True})
def adjust(
    tenant: TenantId,
    amount: Annotated[str, typer.Argument(help="Up, or down: -12.50.")],
    note: Note = "",
    granted: Annotated[bool, typer.Option("--granted", help="Of the granted balance.")] = False,
    currency: Currency = None,
    idempotency_key: Once = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Correct a balance without money having moved; say why: --note."""
    from tribody.cli import ledger_work as command

    given = command.Money("adjust", tenant, amount, note, currency, idempotency_key, granted)
    command.transfer(given, Where(data_dir, database, as_json))


@ledger.command()
def statement(
    tenant: TenantId,
    from_day: FromDay = None,
    to_day: ToDay = None,
    month: InMonth = None,
    currency: Currency = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Payments, what was used by day and by rule, and what is left."""
    from tribody.cli import ledger_work as command

    days = Days(from_day, to_day, month)
    command.print_statement(tenant, days, currency, Where(data_dir, database, as_json))


@ledger.command()
def replay(
    tariff: Annotated[str, typer.Option(help="A price list's file, or an example's name.")],
    tenant: OfTenant = None,
    from_day: FromDay = None,
    to_day: ToDay = None,
    month: InMonth = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """What the same requests would have cost by another price list.

    Exit codes: 0 all were priced, 1 the list has no price for some.
    """
    from tribody.cli import ledger_work as command

    days = Days(from_day, to_day, month)
    raise typer.Exit(command.reprice(tariff, tenant, days, Where(data_dir, database, as_json)))


@ledger.command()
def export(
    what: Annotated[str, typer.Argument(help="usage, or entries (with their postings).")],
    csv: Csv = None,
    parquet: Parquet = None,
    tenant: OfTenant = None,
    from_day: FromDay = None,
    to_day: ToDay = None,
    month: InMonth = None,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Every record of the days, as CSV or Parquet; CSV to standard output without either."""
    from tribody.cli import ledger_work as command

    days = Days(from_day, to_day, month)
    files: tuple[Path | None, Path | None] = (csv, parquet)
    command.export(what, files, tenant, days, Where(data_dir, database))
