"""Verifications of the ledger: long, so they run beside everything else and are asked about."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from tribody.billing.verify import Progress, Report, verify
from tribody.core.errors import TribodyError
from tribody.storage.database import Database

logger = logging.getLogger(__name__)

KEPT = 20  # reports of verifications that have ended


class Verification(msgspec.Struct, kw_only=True):
    """How far it is; at the end what was found (the first hundred of `num_problems`), or why there
    was no end (`failure`).  `head`: the last entry's hash, to be kept elsewhere and compared."""

    id: str
    state: Literal["running", "ended", "failed"] = "running"
    started_ms: int
    ended_ms: int | None = None
    checked: int = 0
    total: int = 0
    ok: bool | None = None
    requests: int = 0
    charges: int = 0
    problems: list[str] = []
    num_problems: int = 0
    head: str | None = None
    failure: str | None = None


class _Closing(Exception):
    """The server ends."""


class Verifier:
    """One verification at a time, in a thread with a connection of its own."""

    def __init__(
        self,
        open_reader: Callable[[], Database],
        wall_seconds: Callable[[], float],
        check: Callable[[Database, Progress], Report] = verify,
    ) -> None:
        """`check`: what is run; another one is for tests."""
        self._open_reader = open_reader
        self._check = check
        self._wall_seconds = wall_seconds
        self._known: deque[Verification] = deque(maxlen=KEPT)
        self._running: asyncio.Task[None] | None = None
        self._closing = threading.Event()

    def start(self) -> Verification:
        """The one that runs, or a new one."""
        if self._running is not None and not self._running.done():
            return self._known[-1]
        made = Verification(id=f"verify-{secrets.token_hex(8)}", started_ms=self._now_ms())
        self._known.append(made)
        self._running = asyncio.create_task(self._run(made))
        return made

    def find(self, verification_id: str) -> Verification | None:
        return next((one for one in self._known if one.id == verification_id), None)

    def all(self) -> list[Verification]:
        """The newest first."""
        return list(self._known)[::-1]

    async def close(self) -> None:
        """End what runs."""
        self._closing.set()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self, made: Verification) -> None:
        try:
            report = await asyncio.to_thread(self._read, made)
            made.requests, made.charges = report.requests, report.charges
            made.problems, made.num_problems = report.problems, report.num_problems
            made.head, made.ok, made.state = report.head.hash, report.is_right, "ended"
        except TribodyError as error:
            made.failure, made.state = str(error), "failed"
        except _Closing:
            made.failure, made.state = "the server ended", "failed"
        finally:
            if made.state == "running":  # our mistake, which asyncio logs
                made.failure, made.state = "the server made a mistake", "failed"
            made.ended_ms = self._now_ms()
            logger.info(
                "event=ledger_verified id=%s ok=%s problems=%d entries=%d",
                made.id,
                made.ok,
                made.num_problems,
                made.checked,
            )

    def _read(self, made: Verification) -> Report:
        """In a thread; what it writes into `made` is read by others as it stands."""

        def progress(checked: int, total: int) -> None:
            made.checked, made.total = checked, total
            if self._closing.is_set():
                raise _Closing

        database = self._open_reader()
        try:
            return self._check(database, progress)
        finally:
            database.close()

    def _now_ms(self) -> int:
        return int(self._wall_seconds() * 1e3)
