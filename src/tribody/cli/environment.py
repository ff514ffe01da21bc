"""The environment: the one function that reads it, and everything that it may say.

Flags win over the environment, the environment wins over defaults.  Nothing below `cli` reads an
environment variable of ours; a name that begins with TRIBODY_ and is not listed here is refused,
because a misspelt setting that does nothing is worse than an error.  docs/environment.md lists all.
The download clients read HF_* and MODELSCOPE_* themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tribody.core.errors import BadConfig
from tribody.loading.download import default_cache_dir

TRIBODY_VARIABLES = frozenset(
    {
        "TRIBODY_API_KEY",
        "TRIBODY_API_KEY_FILE",
        "TRIBODY_DATABASE",
        "TRIBODY_HOST",
        "TRIBODY_KV_MEMORY",
        "TRIBODY_LOG_LEVEL",
        "TRIBODY_MODEL",
        "TRIBODY_PORT",
        "TRIBODY_THREADS",
        "TRIBODY_URL",
    }
)


@dataclass(frozen=True)
class Environment:
    """What the environment asks for; None where it says nothing."""

    api_key: str | None  # client side: chat --url, doctor
    api_key_file: Path | None  # server side
    database: str | None  # server side, and of the commands that read the books
    host: str | None
    kv_memory: str | None
    log_level: str | None
    model: str | None
    port: int | None
    threads: int | None
    url: str | None
    cache_dir: Path  # where downloaded models are kept
    no_color: bool


def read_environment(variables: Mapping[str, str]) -> Environment:
    """Read `os.environ` (or a test's dict).

    Raises: BadConfig on an unknown TRIBODY_ name or a value that is not of the right kind.
    """
    ours = {name for name in variables if name.startswith("TRIBODY_")}
    unknown = sorted(ours - TRIBODY_VARIABLES)
    if unknown:
        raise BadConfig(
            f"environment variable {unknown[0]} is not known; "
            f"known are {', '.join(sorted(TRIBODY_VARIABLES))}"
        )

    def text(name: str) -> str | None:
        return variables.get(name) or None

    def number(name: str) -> int | None:
        value = text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit()):
            raise BadConfig(f"environment variable {name}={value!r} must be a whole number")
        return int(value)

    key_file = text("TRIBODY_API_KEY_FILE")
    return Environment(
        api_key=text("TRIBODY_API_KEY") or text("OPENAI_API_KEY"),
        api_key_file=Path(key_file) if key_file else None,
        database=text("TRIBODY_DATABASE"),
        host=text("TRIBODY_HOST"),
        kv_memory=text("TRIBODY_KV_MEMORY"),
        log_level=text("TRIBODY_LOG_LEVEL"),
        model=text("TRIBODY_MODEL"),
        port=number("TRIBODY_PORT"),
        threads=number("TRIBODY_THREADS"),
        url=text("TRIBODY_URL") or text("OPENAI_BASE_URL"),
        cache_dir=default_cache_dir(variables),
        no_color=bool(text("NO_COLOR")),
    )
