"""Options that the commands on tenants, prices and the ledger share, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer


class Where(NamedTuple):
    """Which database, and how to print what is in it; as typed."""

    data_dir: Path | None
    database: str | None
    as_json: bool = False


class Days(NamedTuple):
    """--from, --to and --month, as typed."""

    first: str | None
    last: str | None
    month: str | None


AccountsDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where accounts.db is (default: data, beside models)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]
KeyId = Annotated[str, typer.Argument(metavar="KEY-ID", help="As `tribody keys list` shows it.")]
LimitTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=NUMBER",
        help="concurrency, requests-per-minute, tokens-per-minute, -day or -month, money-per-day "
        "or -month; 0 = none. Repeatable.",
    ),
]
AccountName = Annotated[str | None, typer.Option(help="What people call it.")]
AccountApi = Annotated[
    str | None, typer.Option(help="How answers look, as OPTION=VALUE,…, over the server's own.")
]
FromDay = Annotated[
    str | None, typer.Option("--from", metavar="DAY", help="First day, such as 2026-11-01.")
]
ToDay = Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day, included.")]
InMonth = Annotated[
    str | None, typer.Option("--month", help="In place of --from and --to, such as 2026-11.")
]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.")]
OfKey = Annotated[str | None, typer.Option("--key", help="Only of the key with this id.")]
OfModel = Annotated[str | None, typer.Option("--model", help="Only of this model.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Write a CSV file.")]
Parquet = Annotated[
    Path | None, typer.Option("--parquet", help="Write a Parquet file (extra: parquet).")
]
