"""`tribody doctor`: what this machine can do, and why a running server is slow."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tribody.cli.environment import Environment, read_environment
from tribody.cli.http_client import NoServer
from tribody.cli.machine_report import (
    BYTES_PER_WEIGHT,
    CONTEXT_TOKENS,
    MachineReport,
    ModelOutlook,
    TunedModel,
    look_at_machine,
    outlooks,
    tuned_models,
)
from tribody.cli.packed_report import PackedModel, packed_models, precision_in_words
from tribody.cli.server_report import ServerReport, look_at_server
from tribody.cli.sizes import show_bytes
from tribody.core.config import default_packed_dir, default_tuning_dir
from tribody.core.errors import BadConfig, BadRequest, EngineFailed
from tribody.engine.tuned import in_words

DEFAULT_URL = "http://127.0.0.1:8000"


class Report(msgspec.Struct, frozen=True):
    """All of it, as `--json` prints it."""

    machine: MachineReport
    models: list[ModelOutlook]
    tuned: list[TunedModel]
    packed: list[PackedModel]
    server: ServerReport | None
    server_error: str | None


def run(files: list[Path], url: str | None, *, as_json: bool) -> None:
    """Print the report.  `files`: packed models to look at besides those in the caches.

    Raises: NoServer when an address was given and nobody answers; EngineFailed without kernels;
    BadConfig for a file that is not there.
    """
    environment = read_environment(os.environ)
    for file in files:
        if not file.exists():
            raise BadConfig(f"{file}: there is no such file or folder")
    machine = look_at_machine()
    caches = [environment.cache_dir, default_packed_dir(environment.cache_dir)]
    packed = packed_models([*files, *caches])
    server, problem = _server(url, environment)
    tuned = tuned_models(default_tuning_dir(environment.cache_dir))
    report = Report(machine, outlooks(machine), tuned, packed, server, problem)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _print(report, Console(no_color=environment.no_color or None, highlight=False))


def _server(url: str | None, environment: Environment) -> tuple[ServerReport | None, str | None]:
    """Look where the user says, else where a server would be; that one may be absent."""
    given = url or environment.url
    try:
        return look_at_server(given or DEFAULT_URL, environment.api_key), None
    except NoServer as error:
        if given is not None:
            raise
        return None, str(error)
    except (BadRequest, EngineFailed) as error:
        return None, str(error)


def _print(report: Report, console: Console) -> None:
    machine = report.machine
    console.print(f"[bold]Machine[/bold]  {machine.cpu}", markup=True)
    console.out(
        f"  kernels    {machine.isa} (this build also has: {', '.join(machine.isa_levels)})"
    )
    console.out(f"  cores      {machine.physical_cores} physical may be used")
    console.out(
        f"  memory     {show_bytes(machine.total_bytes)}, "
        f"{show_bytes(machine.available_bytes)} available"
    )
    console.out(f"  bandwidth  {machine.bandwidth_bytes_per_s / 1e9:.1f} GB/s read, measured now")
    _print_models(report, console)
    _print_tuned(report, console)
    _print_packed(report.packed, console)
    if report.server is not None:
        _print_server(report.server, console)
    else:
        console.print("\n[bold]Server[/bold]", markup=True)
        console.out(f"  {report.server_error}")


def _print_models(report: Report, console: Console) -> None:
    console.print(
        f"\n[bold]Models[/bold]  as w8g32 ({BYTES_PER_WEIGHT:g} bytes a weight), "
        f"with {CONTEXT_TOKENS} tokens of float16 KV",
        markup=True,
    )
    table = Table(box=None, pad_edge=True)
    table.add_column("model")
    table.add_column("memory", justify="right")
    table.add_column("fits")
    table.add_column("at best", justify="right")
    for model in report.models:
        speed = f"{model.tokens_per_second:.1f} tokens/s" if model.fits else ""
        table.add_row(model.name, show_bytes(model.needed_bytes), _fits(model), speed)
    console.print(table)
    console.out("  At best: one stream, bandwidth / bytes read per token; expect 60 to 90 % of it.")


def _print_tuned(report: Report, console: Console) -> None:
    console.print("\n[bold]Tuned[/bold]  for this machine", markup=True)
    for model in report.tuned:
        saved = ", ".join(f"{name} {share:+.1%}" for name, share in model.time_saved.items())
        console.out(f"  {model.name} for {model.goal}: {in_words(model.settings)}; saves {saved}")
    if not report.tuned:
        console.out("  nothing yet: tribody tune MODEL")


def _print_packed(models: list[PackedModel], console: Console) -> None:
    if models:
        console.print("\n[bold]Packed[/bold]  models that start without encoding", markup=True)
    for model in models:
        console.out(f"  {model.path} ({show_bytes(model.num_bytes)})")
        if model.precision is None:
            console.out(f"    ! {model.problem}")
        else:
            console.out(f"    {model.name}: {precision_in_words(model.precision)}")


def _fits(model: ModelOutlook) -> str:
    return "yes" if model.fits else "not now" if model.fits_when_empty else "no"


def _print_server(server: ServerReport, console: Console) -> None:
    console.print(f"\n[bold]Server[/bold]  {server.url}  tribody {server.version}", markup=True)
    for model in server.models:
        console.out(
            f"  {model.model_name}: {model.running:.0f} running, {model.waiting:.0f} waiting, "
            f"KV {model.kv_used:.0%} used, {model.cache_hit_rate:.0%} of prompt tokens cached"
        )
        if model.precision is not None:
            console.out(f"    weights: {precision_in_words(model.precision)}")
        if model.mean_inter_token_seconds is not None:
            first = model.mean_first_token_seconds or 0.0
            console.out(
                f"    first token after {first:.2f} s, then "
                f"{model.mean_inter_token_seconds * 1e3:.0f} ms a token, on average"
            )
        if model.drafted_tokens:
            console.out(
                f"    {model.drafted_tokens:.0f} tokens drafted, "
                f"{model.accepted_tokens / model.drafted_tokens:.0%} of them right"
            )
        for finding in model.findings:
            console.out(f"    ! {finding}")
        if not model.findings:
            console.out("    nothing stands in its way")
