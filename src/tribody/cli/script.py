"""The name of the scripted engine, which is spoken to as a model and needs no files.

scripted                    as fast as it goes
scripted:rate=50            50 tokens a second to every stream
scripted:faults,rate=50     prompts may ask for failures too
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from tribody.cli.engine_options import EngineOptions, engine_config
from tribody.cli.environment import Environment
from tribody.cli.models import fetch
from tribody.core.config import SCRIPTED, EngineConfig, ScriptConfig
from tribody.core.errors import BadConfig

MOST_TOKENS_PER_SECOND = 100_000.0


def config_for(name: str, options: EngineOptions, environment: Environment) -> EngineConfig:
    """The configuration for a model, which is fetched if need be, or for a script.

    Raises: BadConfig, DownloadFailed.
    """
    script = script_of(name)
    if script is None:
        return engine_config(fetch(name, environment), options, environment)
    for option, value in (("--dtype", options.dtype != "auto"), ("--threads", options.threads)):
        if value:
            raise BadConfig(f"{option} is for models; {name} has no weights: leave it out")
    config = engine_config(Path(SCRIPTED), options, environment)
    return msgspec.structs.replace(config, script=script)


def script_of(name: str) -> ScriptConfig | None:
    """What the name of a scripted engine asks for; None for a model's name.

    Raises: BadConfig.
    """
    before, colon, rest = name.partition(":")
    if before != SCRIPTED:
        return None
    rate, faults = 0.0, False
    for setting in rest.split(",") if colon else ():
        key, _, value = setting.partition("=")
        if key == "rate":
            rate = _rate(name, value)
        elif setting == "faults":
            faults = True
        else:
            raise BadConfig(f"{name!r} must be scripted or scripted:[rate=N][,faults]")
    return ScriptConfig(tokens_per_second=rate, faults=faults)


def _rate(name: str, value: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= MOST_TOKENS_PER_SECOND:
        raise BadConfig(
            f"{name!r}: rate must be tokens per second, above 0 and up to "
            f"{MOST_TOKENS_PER_SECOND:g}"
        )
    return rate
