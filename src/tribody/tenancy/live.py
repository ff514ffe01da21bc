"""The accounts of a running server: a directory that follows the database.

A thread asks twice a second for the revision, one row, and reads everything only when that has
changed; so a change by any process is effective within a second.  Look-ups never wait: they use the
snapshot that is there.  While the database cannot be read that is the last one, which lets nobody
in whom it did not know; after `STALE_SECONDS` this is logged, and `is_stale` for /readyz.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tribody.core.api_settings import ApiSettings
from tribody.core.clock import Clock
from tribody.core.errors import BadConfig, StorageFailed
from tribody.core.principal import Principal
from tribody.storage.database import Database
from tribody.tenancy import store
from tribody.tenancy.directory import Denial, Directory

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # a change is effective within a second with time to spare for reading it
STALE_SECONDS = 5.0  # a checkpoint or a restart of PostgreSQL takes less


class LiveDirectory:
    """Opened with a first snapshot; `start` begins to follow, `close` ends it.

    `open_reader` opens the database for reading; what it opened is closed after a failure, and
    opened again.
    """

    def __init__(
        self,
        open_reader: Callable[[], Database],
        secret: bytes,
        default_api: ApiSettings,
        clock: Clock,
    ) -> None:
        """Raises: StorageFailed or BadConfig when there is no first snapshot."""
        self._open_reader = open_reader
        self._secret = secret
        self._default_api = default_api
        self._clock = clock
        self._db: Database | None = None
        self._polling = threading.Lock()  # the connection is for one thread at a time
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_said_so = False
        self._read_at = clock.now()
        try:
            self._directory = self._load()
        except BaseException:
            self._disconnect()
            raise

    # --- look-ups: from any thread ---

    def find(self, key: bytes, now_ms: int) -> Principal | Denial:
        return self._directory.find(key, now_ms)

    def of_key(self, key_id: str, now_ms: int) -> Principal | Denial:
        return self._directory.of_key(key_id, now_ms)

    @property
    def num_tenants(self) -> int:
        """Those that are not paused."""
        return self._directory.num_tenants

    @property
    def revision(self) -> int:
        return self._directory.revision

    @property
    def is_stale(self) -> bool:
        """Whether changes may have gone unnoticed for too long.  By the clock alone, so that it is
        true also when the thread hangs or is dead."""
        return self.age_seconds > STALE_SECONDS

    @property
    def age_seconds(self) -> float:
        """Since the database was last looked at."""
        return self._clock.now() - self._read_at

    # --- following ---

    def start(self) -> None:
        assert self._thread is None
        self._thread = threading.Thread(target=self._follow, name="accounts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._disconnect()

    def poll(self) -> None:
        """Look once.  From any thread; it may take as long as the database does."""
        with self._polling:
            began = self._clock.now()
            try:
                if self._db is None or store.revision(self._db) != self._directory.revision:
                    self._directory = self._load()
            except (StorageFailed, BadConfig) as error:
                self._disconnect()
                self._say_if_stale(error)
                return
            self._read_at = began
            if self._has_said_so:
                self._has_said_so = False
                logger.info("event=accounts_read_again revision=%d", self.revision)

    def _follow(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            self.poll()

    def _load(self) -> Directory:
        if self._db is None:
            self._db = self._open_reader()
        directory = Directory.load(self._db, self._secret, self._default_api)
        for problem in directory.unreadable:
            logger.error("event=account_denied problem=%r", problem)
        return directory

    def _say_if_stale(self, error: StorageFailed | BadConfig) -> None:
        if self.is_stale and not self._has_said_so:
            self._has_said_so = True
            logger.error(
                "event=accounts_stale revision=%d seconds=%.1f detail=%r",
                self.revision,
                self.age_seconds,
                str(error),
            )

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
