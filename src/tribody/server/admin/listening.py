"""The admin API's own listener: a second server in the same process, on loopback, full stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette

from tribody.core.clock import Clock
from tribody.server.accounts import Accounts, Reader
from tribody.server.admin.app import admin_app
from tribody.server.admin.state import AdminState
from tribody.server.admin.token import TOKEN_FILE, AdminToken
from tribody.server.admin.verification import Verifier
from tribody.server.http_protocol import uvicorn_config
from tribody.server.metrics import Metrics
from tribody.storage.opening import open_reader


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


@asynccontextmanager
async def admin_api(
    accounts: Accounts, listener: socket.socket, clock: Clock, metrics: Metrics
) -> AsyncGenerator[None, None]:
    """The admin API of a server with accounts answers while the block runs.

    Raises: BadConfig before it, when there is no token to be had.
    """
    where = accounts.where
    token = AdminToken.read(accounts.data_dir / TOKEN_FILE)
    reader = Reader(where)  # of its own: what an operator asks for may take long
    verifier = Verifier(lambda: open_reader(where), accounts.wall_seconds)
    state = AdminState(
        writer=accounts.writer,
        reader=reader,
        secret=accounts.secret,
        wall_seconds=accounts.wall_seconds,
        verifier=verifier,
        directory=accounts.directory,
        node_id=accounts.node_id,
    )
    try:
        async with answering(
            admin_app(state, token, clock, lambda: metrics.auth_failure("admin")), listener
        ):
            yield
    finally:
        await verifier.close()
        reader.close()


def admin_text(accounts: Accounts, listener: socket.socket) -> str:
    """Where it is, for whoever started the server."""
    port = listener.getsockname()[1]
    return f"admin API at http://127.0.0.1:{port}; its token is in {accounts.data_dir / TOKEN_FILE}"
