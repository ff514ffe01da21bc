"""`tribody usage`, `invoice`, `reconcile`, `margin`: what the ledger says, for people."""

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
    OfKey,
    OfModel,
    OfTenant,
    Parquet,
    TenantId,
    ToDay,
    Where,
)
from tribody.cli.flags import Database


def usage(
    by: Annotated[
        str, typer.Option(help="Of day, month, tenant, user, key, model, route, outcome.")
    ] = "day,model",
    tenant: OfTenant = None,
    key: OfKey = None,
    model: OfModel = None,
    from_day: FromDay = None,
    to_day: ToDay = None,
    month: InMonth = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with charts by tenant and day, .html.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write the charts as a picture (needs matplotlib).")
    ] = None,
    csv: Csv = None,
    parquet: Parquet = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Requests, tokens, hit rate and charges of the last 30 days.

    Without accounts the tenant is called local, and nothing is charged.
    """
    from tribody.cli import usage_work as command

    asked = command.UsageOptions(by, tenant, key, model, report, png, csv, parquet)
    days = Days(from_day, to_day, month)
    command.run(asked, days, Where(data_dir, database, as_json))


def invoice(
    tenant: TenantId,
    month: Annotated[str, typer.Option(help="Such as 2026-11.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write, .html; prints on A4.")
    ] = None,
    language: Annotated[str, typer.Option(help="en or zh.")] = "en",
    seller: Annotated[
        str, typer.Option(help="Who asks for the money; lines as they are printed.")
    ] = "",
    buyer: Annotated[str, typer.Option(help="In place of the tenant's name.")] = "",
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """A tenant's month: what was charged by which rule, and the balance before and after.

    Without --out, the sums.
    """
    from tribody.cli import invoice_work as command

    asked = command.InvoiceOptions(tenant, month, out, language, seller, buyer)
    command.run(asked, Where(data_dir, database, as_json))


def reconcile(
    bills: Annotated[list[Path], typer.Argument(metavar="UPSTREAM.csv", help="Or a .zip of them.")],
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS",
            help="What a column or a type is called: days, end, model, type, amount, price, "
            "money, currency, requests, hit, miss, prompt, completion. Repeatable.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Only such rows of the bill. Repeatable."),
    ] = None,
    model_name: Annotated[
        list[str] | None,
        typer.Option(metavar="THEIRS=OURS", help="What a model is called here. Repeatable."),
    ] = None,
    utc_offset: Annotated[
        str | None,
        typer.Option(metavar="+HH:MM", help="Of the bill's days (default: as it says, or +08:00)."),
    ] = None,
    currency: Annotated[str, typer.Option(help="Of the bill, where it names none.")] = "CNY",
    prices: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The upstream's price list, or `charged`: money has to agree too.",
        ),
    ] = None,
    tolerance: Annotated[str, typer.Option(help="Share that figures may differ by: 0.1%.")] = "0",
    tenant: OfTenant = None,
    all_rows: Annotated[bool, typer.Option("--all", help="Print what agrees, too.")] = False,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Compare a provider's bill with our usage records, by day and model.

    Exit codes: 0 all agrees, 1 something differs or is missing, 2 the bill cannot be read.
    """
    from tribody.cli import reconcile_work as command

    asked = command.ReconcileOptions(
        bills=bills,
        columns=column or [],
        only=only or [],
        models=model_name or [],
        utc_offset=utc_offset,
        currency=currency,
        prices=prices,
        tolerance=tolerance,
        tenant=tenant,
        all_rows=all_rows,
    )
    raise typer.Exit(command.run(asked, Where(data_dir, database, as_json)))


def margin(
    cost_per_hour: Annotated[str, typer.Option(help="What one node costs, such as 16.50.")],
    nodes: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many there are.")] = 1,
    currency: Annotated[str, typer.Option(help="Of the cost: CNY or USD.")] = "CNY",
    rate: Annotated[
        list[str] | None,
        typer.Option(metavar="CURRENCY=NUMBER", help="What one of another is worth. Repeatable."),
    ] = None,
    from_day: FromDay = None,
    to_day: ToDay = None,
    month: InMonth = None,
    csv: Csv = None,
    parquet: Parquet = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """What was charged against what the machines cost: the gross margin by day and model.

    Every hour of the period costs, busy or not; models share a day's cost by the time of their
    requests.
    """
    from tribody.cli import margin_work as command

    asked = command.MarginOptions(cost_per_hour, nodes, currency, rate or [], csv, parquet)
    days = Days(from_day, to_day, month)
    command.run(asked, days, Where(data_dir, database, as_json))
