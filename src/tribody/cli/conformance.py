"""`tribody conformance`: its options.  The work is in conformance_report, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def conformance(
    server: Annotated[
        str | None, typer.Argument(metavar="URL", help="Such as http://127.0.0.1:8000.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the key (default: OPENAI_API_KEY).")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name to ask for (default: the first that is listed).")
    ] = None,
    profile: Annotated[str, typer.Option(help="Which of DeepSeek's contracts: 2025 or 2026.")] = (
        "2026"
    ),
    section: Annotated[
        list[str] | None, typer.Option(help="Only this section. Repeatable (default: all).")
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="List the checks, ask nobody.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a server against DeepSeek's and OpenAI's API, from outside.

    Exit codes: 0 every check passed or was skipped, 1 some failed, 2 it could not be run.
    """
    from tribody.cli import conformance_report as command

    options = command.ConformanceOptions(
        url=server,
        key_file=key_file,
        model=model,
        profile=profile,
        sections=section or [],
        only_list=only_list,
        as_json=as_json,
    )
    raise typer.Exit(command.run(options))
