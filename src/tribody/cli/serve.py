"""`tribody serve`: from names on the command line to a running server."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from tribody.cli.engine_options import DEFAULT_MODEL, EngineOptions, require_native
from tribody.cli.environment import Environment, read_environment
from tribody.cli.logs import start_logging
from tribody.cli.script import config_for, script_of
from tribody.core.api_settings import DEFAULT_API, ApiSettings, with_options
from tribody.core.config import KV_SHARE_OF_FREE_MEMORY, default_data_dir
from tribody.core.errors import BadConfig
from tribody.loading.bundled import BUNDLED
from tribody.server.aliases import DEEPSEEK_NAMES, Alias
from tribody.server.launch import NamedModel, launch
from tribody.server.listening import Listening, ServeConfig, listen

DEFAULT_PORT = 8000  # vLLM's, so that copied commands work
DEFAULT_HOST = "127.0.0.1"
MODES = {"on": True, "off": False}


@dataclass(frozen=True)
class ServeOptions:
    """As typed by the user."""

    models: list[str]
    port: int | None
    host: str | None
    api_key_file: Path | None
    aliases: list[str]
    shutdown_seconds: float
    api: str
    data_dir: Path | None
    accounts: bool
    admin_port: int | None
    database: str | None
    log_level: str | None


def run(options: ServeOptions, engine: EngineOptions) -> None:
    """Serve until told to stop.  Raises: TribodyError before the server is ready."""
    environment = read_environment(os.environ)
    start_logging(options.log_level or environment.log_level or "info")
    require_native()
    config, names = resolve(options, environment)
    listening = listen(config)  # a taken port shows before anything is fetched or loaded
    share = KV_SHARE_OF_FREE_MEMORY / len(names)
    models = [
        NamedModel(
            name, msgspec.structs.replace(config_for(name, engine, environment), kv_share=share)
        )
        for name in names
    ]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, listening, models))


async def _serve(config: ServeConfig, listening: Listening, models: list[NamedModel]) -> None:
    first = launch(models[0], _say)
    await first.process_exists()
    # Imported here: these take as long as the engine process takes to begin, so both do at once.
    from tribody.server.serve import serve

    await serve(config, listening, models, first, _say)


def resolve(options: ServeOptions, environment: Environment) -> tuple[ServeConfig, list[str]]:
    """Flags, then environment, then defaults; the models to serve, each once."""
    names = options.models or [environment.model or DEFAULT_MODEL]
    aliases = parse_aliases(options.aliases)
    ours = names[0] in BUNDLED or script_of(names[0]) is not None
    if len(names) == 1 and ours:  # no other model is configured
        aliases = {name: Alias(names[0]) for name in DEEPSEEK_NAMES} | aliases
    for name in names:
        if names.count(name) > 1:
            raise BadConfig(f"the model {name!r} is named twice; once serves it")
    port = options.port if options.port is not None else environment.port
    config = ServeConfig(
        host=options.host or environment.host or DEFAULT_HOST,
        port=DEFAULT_PORT if port is None else port,
        api_key_file=options.api_key_file or environment.api_key_file,
        shutdown_seconds=options.shutdown_seconds,
        api=parse_api(options.api),
        aliases=aliases,
        data_dir=options.data_dir or default_data_dir(environment.cache_dir),
        data_dir_required=options.data_dir is not None or options.accounts,
        accounts=options.accounts,
        admin_port=options.admin_port,
        database=options.database or environment.database,
    )
    return config, names


def parse_api(text: str) -> ApiSettings:
    """Raises: BadConfig on an option or value that does not exist."""
    try:
        return with_options(DEFAULT_API, text)
    except ValueError as error:
        raise BadConfig(f"--api {text!r}: {error}") from None


def parse_aliases(texts: list[str]) -> dict[str, Alias]:
    """`NAME=MODEL` pairs, each with an optional `,thinking=on` or `,thinking=off`.

    Raises: BadConfig on anything else, or a name given twice.
    """
    aliases: dict[str, Alias] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        model, comma, mode = rest.partition(",thinking=")
        if not (name and equals and model) or (comma and mode not in MODES):
            raise BadConfig(f"--alias {text!r} must be NAME=MODEL or NAME=MODEL,thinking=on|off")
        if name in aliases:
            raise BadConfig(f"--alias {name!r} is given twice")
        aliases[name] = Alias(model, MODES[mode] if comma else None)
    return aliases


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)
