"""The admin API's own listener: a second server in the same process, on loopback, full stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette

from tribody.core.errors import BadConfig
from tribody.server.listening import bind
from tribody.server.serve import uvicorn_config

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
LAST_PORT = 65_535


def admin_port(public_port: int, given: int | None) -> int:
    """`--admin-port`, or the one after the public port; 0 = any that is free.

    Raises: BadConfig when there is none after it.
    """
    if given is not None:
        return given
    if public_port == LAST_PORT:
        raise BadConfig(f"there is no port after {LAST_PORT} for the admin API; give --admin-port")
    return public_port + 1 if public_port else 0


def bind_admin(port: int) -> socket.socket:
    """Raises: BadConfig, naming --admin-port, when the port cannot be had."""
    return bind(HOST, port, has_keys=True, option="--admin-port")


class _Server(uvicorn.Server):
    """Leaves signals to the public server, at whose end it is told to stop."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@asynccontextmanager
async def answering(app: Starlette, listener: socket.socket) -> AsyncGenerator[None, None]:
    """The admin API answers while the block runs."""
    server = _Server(uvicorn_config(app))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()
