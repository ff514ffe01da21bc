"""`tribody serve`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tribody.cli.flags import (
    MODEL_HELP,
    Api,
    Database,
    DataDir,
    Dtype,
    Host,
    KeepPacked,
    KVMemory,
    LogLevel,
    MaxContext,
    MaxDrafts,
    Speculation,
    Threads,
    Tuning,
)


def serve(
    models: Annotated[list[str] | None, typer.Argument(help=MODEL_HELP)] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port (default: 8000; 0 = any free).")
    ] = None,
    host: Host = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="One API key per line; # begins a comment line.")
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(help="NAME=MODEL[,thinking=on|off]: one more name for a served model."),
    ] = None,
    dtype: Dtype = "auto",
    kv_memory: KVMemory = None,
    threads: Threads = None,
    max_context: MaxContext = None,
    max_step_tokens: Annotated[
        int | None, typer.Option(min=1, max=65536, help="Token budget of one step (default: 512).")
    ] = None,
    step_stretch: Annotated[
        float,
        typer.Option(min=0, help="Most that prompts slow streams: 3 = threefold; 0 = any."),
    ] = 3.0,
    max_running: Annotated[int, typer.Option(min=1, max=4096, help="Sequences in one step.")] = 64,
    speculation: Speculation = "auto",
    max_drafts: MaxDrafts = None,
    tuning: Tuning = True,
    packed_cache: KeepPacked = True,
    api: Api = "",
    data_dir: DataDir = None,
    accounts: Annotated[
        bool, typer.Option("--accounts", help="Take the keys of `tribody keys` and charge.")
    ] = False,
    admin_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the admin API on 127.0.0.1, with --accounts (default: the next).",
        ),
    ] = None,
    database: Database = None,
    shutdown_timeout: Annotated[
        float, typer.Option(min=0, max=86400, help="Seconds that a drain may take.")
    ] = 30.0,
    log_level: LogLevel = None,
) -> None:
    """Serve models over an OpenAI-compatible HTTP API."""
    from tribody.cli import serve as command
    from tribody.cli.engine_options import EngineOptions

    engine = EngineOptions(
        dtype=dtype,
        kv_memory=kv_memory,
        threads=threads,
        max_context=max_context,
        max_step_tokens=max_step_tokens,
        step_stretch=step_stretch,
        max_running=max_running,
        speculation=speculation,
        max_drafts=max_drafts,
        tuning=tuning,
        keep_packed=packed_cache,
    )
    options = command.ServeOptions(
        models=models or [],
        port=port,
        host=host,
        api_key_file=api_key_file,
        aliases=alias or [],
        shutdown_seconds=shutdown_timeout,
        api=api,
        data_dir=data_dir,
        accounts=accounts,
        admin_port=admin_port,
        database=database,
        log_level=log_level,
    )
    command.run(options, engine)
