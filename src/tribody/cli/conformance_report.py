"""Run the contract suite against a server and print what came out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tribody.cli.environment import Environment, read_environment
from tribody.conformance.check import Section
from tribody.conformance.runner import STATUSES, Outcome, Report, run_checks
from tribody.conformance.suite import chosen
from tribody.conformance.target import Target
from tribody.conformance.wire import Client
from tribody.core.api_settings import ProfileName
from tribody.core.errors import BadConfig

MAX_SHOWN_IDS = 4  # of checks that were skipped for one reason; --json has them all
PROFILES: tuple[ProfileName, ...] = ("2025", "2026")


@dataclass(frozen=True)
class ConformanceOptions:
    url: str | None
    key_file: Path | None
    model: str | None
    profile: str
    sections: list[str]
    only_list: bool
    as_json: bool


def run(options: ConformanceOptions) -> int:
    """The exit code: 0 all passed, 1 some failed.

    Raises: BadConfig (exit code 2) where nothing could be run.
    """
    environment = read_environment(os.environ)
    console = Console(no_color=environment.no_color or None, highlight=False)
    profile = next((name for name in PROFILES if name == options.profile), None)
    if profile is None:
        raise BadConfig(f"--profile {options.profile!r} is not one of {', '.join(PROFILES)}")
    sections = chosen(options.sections)
    if options.only_list:
        _print_list(sections, profile, console)
        return 0
    url = options.url or environment.url
    if url is None:
        raise BadConfig("name the server to test: tribody conformance http://127.0.0.1:8000")
    progress = Console(stderr=True, no_color=environment.no_color or None, highlight=False)
    with Client(url, _key(options.key_file, environment)) as client:
        target = Target(client, profile, options.model)
        with progress.status("asking") as status:
            report = run_checks(target, sections, lambda outcome: status.update(outcome.id))
    if options.as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _print(report, sections, console)
    return 1 if report.failed else 0


def _key(path: Path | None, environment: Environment) -> str | None:
    """The first key of the file, as `serve --api-key-file` reads it, or the environment's."""
    if path is None:
        return environment.api_key
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"--key-file {path}: cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise BadConfig(f"--key-file {path}: holds no key; write one on a line")
    return keys[0].split()[0]  # behind a key may stand its settings


def _print_list(sections: Sequence[Section], profile: ProfileName, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("check", "what it asks for", "needs"):
        table.add_column(name, overflow="fold")
    for section in sections:
        for check in section.checks:
            if profile in check.profiles:
                table.add_row(check.id, check.title, ", ".join(check.needs))
    console.print(table)


def _print(report: Report, sections: Sequence[Section], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("section")
    for name in ("passed", "failed", "skipped"):
        table.add_column(name, justify="right")
    for section in sections:
        found = [outcome for outcome in report.checks if outcome.section == section.name]
        counts = [sum(o.status == status for o in found) for status in STATUSES]
        table.add_row(section.title, *(str(count) if count else "" for count in counts))
    table.add_row("all", str(report.passed), str(report.failed), str(report.skipped))
    console.print(table)
    _print_failed([o for o in report.checks if o.status == "failed"], console)
    _print_skipped([o for o in report.checks if o.status == "skipped"], console)
    model = f"{report.model}{' (scripted)' if report.scripted else ''}"
    console.out(
        f"\n{report.url}, model {model}, profile {report.profile}: {report.passed} passed, "
        f"{report.failed} failed, {report.skipped} skipped in {report.seconds:.1f} s"
    )


def _print_failed(outcomes: Sequence[Outcome], console: Console) -> None:
    if outcomes:
        console.out("\nfailed")
    for outcome in outcomes:
        console.out(f"  {outcome.id}: {outcome.title}")
        console.out(f"      {outcome.detail}")


def _print_skipped(outcomes: Sequence[Outcome], console: Console) -> None:
    """By reason, because one reason often has many checks."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        by_reason[outcome.detail].append(outcome.id)
    if by_reason:
        console.out("\nskipped")
    for reason, ids in by_reason.items():
        shown = ", ".join(ids[:MAX_SHOWN_IDS])
        more = f" and {len(ids) - MAX_SHOWN_IDS} more" if len(ids) > MAX_SHOWN_IDS else ""
        console.out(f"  {reason}: {shown}{more}")
