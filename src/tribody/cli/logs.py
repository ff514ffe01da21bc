"""Logging of the commands: one line per event on standard error, key=value."""

from __future__ import annotations

import logging

from tribody.core.errors import BadConfig
from tribody.core.logs import LOG_FORMAT

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def start_logging(level: str) -> None:
    """Raises: BadConfig on an unknown level."""
    number = LEVELS.get(level.lower())
    if number is None:
        raise BadConfig(f"--log-level {level!r} is not known; choose one of {', '.join(LEVELS)}")
    logging.basicConfig(level=number, format=LOG_FORMAT)
    # uvicorn's own lines repeat what our lines say; its warnings and errors stay.
    logging.getLogger("uvicorn").setLevel(max(number, logging.WARNING))
    logging.getLogger("asyncio").setLevel(max(number, logging.WARNING))
