"""The books of a running server: who may come in, what that costs, and what has been used.

`Accounts` is what `serve --accounts` opens: the writer of the database, the directory of keys, the
tariff in use, rates.  Without accounts `Records` keeps what was used and charges nothing.  Both are
opened before the server listens and closed when its last answer is settled.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from tribody.billing.entries import currency_sums
from tribody.billing.records import Balance, UnknownRequest
from tribody.billing.reservations import num_open_reservations
from tribody.billing.results import Decided, accept_of, expire_results, overdue_results
from tribody.billing.settlement import record, recover
from tribody.billing.tariff_store import current_tariff
from tribody.billing.tariffs import Tariff
from tribody.billing.transfers import balances
from tribody.core.api_settings import ApiSettings
from tribody.core.clock import Clock
from tribody.core.errors import BadConfig, StorageFailed
from tribody.core.metering import Counts, UsageRecord
from tribody.core.principal import Principal
from tribody.core.private_file import read_or_make
from tribody.server.auth import unknown_key
from tribody.server.errors import Forbidden
from tribody.server.ledger_meter import LedgerMeter
from tribody.server.metering import Figures, UsageMeter, Watch
from tribody.storage.database import Database
from tribody.storage.opening import open_reader
from tribody.storage.revisions import revisions
from tribody.storage.writer import Writer
from tribody.tenancy.directory import Denial
from tribody.tenancy.keys import read_secret
from tribody.tenancy.live import LiveDirectory
from tribody.tenancy.rates import Rates

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # as the directory: a change of prices is effective within a second
DATABASE = "accounts.db"
NODE_ID = re.compile(r"node-[0-9a-f]{16}")

T = TypeVar("T")


class Reader:
    """One connection that only reads, used in worker threads, one work at a time."""

    def __init__(self, where: Path | str) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._database: Database | None = None

    async def run(self, work: Callable[[Database], T]) -> T:
        """Raises: StorageFailed, and what `work` raises."""
        return await asyncio.to_thread(self.run_here, work)

    def run_here(self, work: Callable[[Database], T]) -> T:
        """`run` in this thread."""
        with self._lock:
            if self._database is None:
                self._database = open_reader(self._where)
            try:
                return work(self._database)
            except StorageFailed:
                self._database.close()
                self._database = None  # opened anew by the next work
                raise

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None


class Accounts:
    """See the module's docstring."""

    def __init__(
        self,
        where: Path | str,
        data_dir: Path,
        api: ApiSettings,
        clock: Clock,
        wall_seconds: Callable[[], float],
    ) -> None:
        """Raises: BadConfig, StorageFailed."""
        self.wall_seconds = wall_seconds
        self.node_id = node_id(data_dir)
        self.data_dir = data_dir
        self.secret = secret = read_secret(data_dir / "secret")
        self.where = where
        self.writer = Writer(where)
        try:
            self.reader = Reader(where)
            self.directory = LiveDirectory(lambda: open_reader(where), secret, api, clock)
            self._tariff: Tariff | None = None
            self._tariff_revision = -1
            self.reader.run_here(self._read_tariff)
        except BaseException:
            self.writer.close()
            raise
        self.rates = Rates(clock)
        self._following: asyncio.Task[None] | None = None

    # --- who comes in: what `authenticate` asks

    def find(self, key: bytes) -> Principal | None:
        """Raises: Forbidden for a key that is paused, which only its holder learns; Unauthorized,
        in the same words, for one that is unknown, revoked or expired."""
        found = self.directory.find(key, self.now_ms())
        if found is Denial.PAUSED:
            raise Forbidden(
                "This account or API key is paused; ask whoever runs this server.",
                reason=found.value,
            )
        if isinstance(found, Denial):
            raise unknown_key(key, reason=found.value)
        return found

    def of_key(self, key_id: str) -> Principal | None:
        found = self.directory.of_key(key_id, self.now_ms())
        return None if isinstance(found, Denial) else found

    # --- what it costs

    @property
    def tariff(self) -> Tariff | None:
        """The one in use; None: nothing has a price, and nothing is answered."""
        return self._tariff

    def meter(self, watch: Watch) -> LedgerMeter:
        self.writer.on_commit = watch.ledger_commit
        return LedgerMeter(
            writer=self.writer,
            rates=self.rates,
            tariff=lambda: self._tariff,
            node_id=self.node_id,
            wall_seconds=self.wall_seconds,
            watch=watch,
        )

    async def figures(self) -> Figures | None:
        try:
            return await self.reader.run(self._figures)
        except (StorageFailed, BadConfig):
            return None  # `trouble` says so too

    def _figures(self, db: Database) -> Figures:
        return Figures(num_open_reservations(db), currency_sums(db), self.directory.age_seconds)

    def _read_tariff(self, db: Database) -> None:
        number = revisions(db).get("tariffs", 0)
        if number != self._tariff_revision:
            self._tariff = current_tariff(db)
            for problem in [] if self._tariff is None else self._tariff.problems():
                logger.warning("event=tariff_doubt text=%r", problem.text)
            self._tariff_revision = number

    async def balances(self, tenant_id: str) -> list[Balance]:
        """A tenant's money, by currency.  Raises: StorageFailed."""
        return await self.reader.run(lambda db: balances(db, tenant_id))

    async def accept(self, tenant_id: str, request_id: str, *, accepted: bool) -> Decided:
        """Raises: UnknownRequest, StorageFailed."""
        return await self.writer.run(
            lambda db: accept_of(db, tenant_id, request_id, accepted, self.now_ms())
        )

    def summary(self) -> str:
        count = self.directory.num_tenants
        tenants = f"accounts: {count} tenant{'' if count == 1 else 's'}"
        if self._tariff is None:
            return (
                f"{tenants}; no tariff is in use, so nothing is answered: tribody tariff use FILE"
            )
        return f"{tenants}, prices of {self._tariff.prices.title or self._tariff.digest[:12]!r}"

    # --- its life

    async def start(self) -> None:
        """Settle what an earlier run of this node left open, and begin to follow changes."""
        count = await self.writer.run(lambda db: recover(db, self.node_id, self.now_ms()))
        if count:
            logger.warning("event=reservations_recovered count=%d", count)
        self.directory.start()
        self._following = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """When everything is settled.  Twice is once."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self.directory.close()
        self.reader.close()
        self.writer.close()  # the last one, so that its log joins the database

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.reader.run(self._read_tariff)
                overdue = await self.reader.run(lambda db: overdue_results(db, self.now_ms()))
                if overdue and self.writer.failure is None:
                    await self.writer.run(lambda db: expire_results(db, self.now_ms()))
            except (StorageFailed, BadConfig) as error:
                logger.error("event=tariff_not_read detail=%r", str(error))

    def now_ms(self) -> int:
        return int(self.wall_seconds() * 1e3)

    @property
    def trouble(self) -> str | None:
        """Why no work is taken now, for /readyz."""
        if self.writer.failure is not None:
            return "the ledger has failed"
        return "the accounts cannot be read" if self.directory.is_stale else None


class Records:
    """What was used, of a server without accounts.

    Trouble with it is logged, and hinders nobody.
    """

    def __init__(self, where: Path | str, wall_seconds: Callable[[], float]) -> None:
        """Raises: BadConfig, StorageFailed."""
        self._writer = Writer(where)
        self._wall_seconds = wall_seconds
        self._failing = False
        self._watch: Watch | None = None

    def meter(self, watch: Watch) -> UsageMeter:
        self._writer.on_commit = watch.ledger_commit
        self._watch = watch
        return UsageMeter(self._record, self._wall_seconds)

    async def figures(self) -> None:
        """Nothing is reserved and no money moves."""

    async def balances(self, tenant_id: str) -> None:
        """Nothing is charged."""

    async def accept(self, tenant_id: str, request_id: str, *, accepted: bool) -> Decided:
        """Nothing is paid for by result."""
        raise UnknownRequest(request_id, "answer to be accepted")

    def summary(self) -> None:
        """Who has no accounts is not told of them."""

    @property
    def trouble(self) -> None:
        """Usage that cannot be recorded is no reason not to answer."""

    async def start(self) -> None:
        """Nothing is left open, since nothing is reserved."""

    def _record(self, usage: UsageRecord) -> None:
        try:
            future = self._writer.submit(lambda db: record(db, usage))
            future.add_done_callback(lambda done: self._done(done, usage.counts))
        except StorageFailed as error:
            self._say(error)

    def _done(self, future: Future[None], counts: Counts) -> None:
        error = future.exception()
        if error is None:
            self._failing = False
            if self._watch is not None:
                self._watch.settled(counts)
        else:
            self._say(error)

    def _say(self, error: BaseException) -> None:
        """Once, until it works again."""
        if not self._failing:
            self._failing = True
            logger.error("event=usage_not_recorded detail=%r", str(error))

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close)


def node_id(data_dir: Path) -> str:
    """What this server's reservations are known by in the database: drawn once, kept in a file.

    Raises: BadConfig.
    """
    path, what = data_dir / "node", "the node's name"
    content = read_or_make(path, what, lambda: f"node-{secrets.token_hex(8)}\n".encode(), 64)
    found = content.decode("ascii", "replace").strip()
    if NODE_ID.fullmatch(found) is None:
        raise BadConfig(f"{what} {path} is none; restore it, or remove it when nothing is held")
    return found
