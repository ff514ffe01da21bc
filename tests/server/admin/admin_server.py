"""An admin API on a database of its own, answering in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tribody.billing.verify import Progress, Report, verify
from tribody.core.api_settings import DEFAULT_API
from tribody.core.clock import MonotonicClock
from tribody.server.accounts import Reader
from tribody.server.admin.app import admin_app
from tribody.server.admin.listening import answering
from tribody.server.admin.state import AdminState
from tribody.server.admin.token import TOKEN_FILE, AdminToken
from tribody.server.admin.verification import Verifier
from tribody.server.listening import ServeConfig, bind_admin
from tribody.storage.database import Database
from tribody.storage.opening import open_reader
from tribody.storage.writer import Writer
from tribody.tenancy.keys import read_secret
from tribody.tenancy.live import LiveDirectory

NOW_MS = 1_760_000_000_000


@dataclass
class Time:
    """Seconds of the wall, moved by tests."""

    ms: int = NOW_MS

    def seconds(self) -> float:
        return self.ms / 1e3


@dataclass
class AdminServer:
    port: int
    token: str
    writer: Writer
    where: Path | str
    secret: bytes
    time: Time
    directory: LiveDirectory
    refused: list[int]  # one for everybody who was not let in
    _stop: Callable[[], None] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **headers: str) -> httpx2.Client:
        """With the token, unless `headers` say otherwise."""
        shown = {"Authorization": f"Bearer {self.token}", **headers}
        return httpx2.Client(base_url=self.url, headers=shown, timeout=30.0, verify=False)


@contextmanager
def admin_server(
    folder: Path,
    check: Callable[[Database, Progress], Report] = verify,
    url: str | None = None,
) -> Iterator[AdminServer]:
    """Stopped at the end of the block.  `url`: of a database that is not in the folder."""
    where: Path | str = url or folder / "accounts.db"
    time = Time()
    writer = Writer(where)
    secret = read_secret(folder / "secret")
    token = AdminToken.read(folder / TOKEN_FILE)
    clock = MonotonicClock()
    directory = LiveDirectory(lambda: open_reader(where), secret, DEFAULT_API, clock)
    listener = bind_admin(ServeConfig(admin_port=0))
    started: Future[Callable[[], None]] = Future()

    reader = Reader(where)
    refused: list[int] = []

    async def live() -> None:
        verifier = Verifier(lambda: open_reader(where), time.seconds, check)
        state = AdminState(
            writer=writer,
            reader=reader,
            secret=secret,
            wall_seconds=time.seconds,
            verifier=verifier,
            directory=directory,
            node_id="node-1",
        )
        loop, ending = asyncio.get_running_loop(), asyncio.Event()
        async with answering(admin_app(state, token, clock, lambda: refused.append(1)), listener):
            started.set_result(lambda: loop.call_soon_threadsafe(ending.set))  # type: ignore[arg-type]
            await ending.wait()
        await verifier.close()

    port = listener.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    stop = started.result(10)
    shown = (folder / TOKEN_FILE).read_text().strip()
    try:
        yield AdminServer(port, shown, writer, where, secret, time, directory, refused, stop)
    finally:
        stop()
        thread.join(20)
        assert not thread.is_alive()
        directory.close()
        reader.close()
        writer.close()


def code_of(answer: httpx2.Response) -> tuple[int, str | None, str | None]:
    """Status, code and parameter of a refusal, which has our shape."""
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["code"], error["param"]
