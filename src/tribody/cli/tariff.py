"""`tribody tariff`: price lists checked, put into use, asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tribody.cli.account_flags import AccountsDir, AsJson, Where
from tribody.cli.flags import Database

tariff = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

PriceFile = Annotated[Path, typer.Argument(metavar="FILE", help="A price list, .toml.")]


@tariff.command()
def check(file: PriceFile, as_json: AsJson = False) -> None:
    """Refuse gaps, overlaps and unknown calendars before anybody is charged.

    Exit codes: 0 right (there may be warnings), 1 errors, 2 not a price list.
    """
    from tribody.cli import tariff_work as command

    raise typer.Exit(command.check(file, as_json=as_json))


@tariff.command()
def use(
    file: PriceFile,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Price every request from now on by this list; running servers notice."""
    from tribody.cli import tariff_work as command

    command.use(file, Where(data_dir, database, as_json))


@tariff.command()
def show(
    digest: Annotated[
        str | None, typer.Argument(help="Its first characters (default: the one in use).")
    ] = None,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """Print a price list that was ever in use, as it was written."""
    from tribody.cli import tariff_work as command

    command.show(digest, Where(data_dir, database))


@tariff.command("list")
def list_(as_json: AsJson = False, data_dir: AccountsDir = None, database: Database = None) -> None:
    """Lists that were put into use, and examples that ship."""
    from tribody.cli import tariff_work as command

    command.list_all(Where(data_dir, database, as_json))


@tariff.command()
def example(name: Annotated[str, typer.Argument(help="As `tribody tariff list` says.")]) -> None:
    """Print an example: tribody tariff example start > prices.toml."""
    from tribody.cli import tariff_work as command

    command.example(name)


@tariff.command()
def price(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    prompt: Annotated[int, typer.Option(min=0, help="Prompt tokens, cached ones included.")] = 0,
    cached: Annotated[int, typer.Option(min=0, help="Of them from the cache.")] = 0,
    completion: Annotated[int, typer.Option(min=0, help="Tokens with the reasoning.")] = 0,
    reasoning: Annotated[int, typer.Option(min=0, help="Of them reasoning.")] = 0,
    at: Annotated[
        str | None, typer.Option(help="When: 2026-11-22T09:00 in Shanghai (default: now).")
    ] = None,
    tenant: Annotated[str, typer.Option(help="For this tenant.")] = "",
    currency: Annotated[str | None, typer.Option(help="Of the tenant's money.")] = None,
    batch: Annotated[bool, typer.Option("--batch", help="As part of a batch.")] = False,
    file: Annotated[
        str | None, typer.Option(help="By this list, or example (default: the one in use).")
    ] = None,
    as_json: AsJson = False,
    data_dir: AccountsDir = None,
    database: Database = None,
) -> None:
    """What a request would cost, and by which rule."""
    from tribody.cli import tariff_work as command

    asked = command.Asked(model, prompt, cached, completion, reasoning, at, tenant, currency, batch)
    command.price(asked, file, Where(data_dir, database, as_json))
