"""The one thread of a process that writes: works wait in a queue and share commits.

While one commit waits for the disk, the works that arrive meanwhile gather; they make the next
one.  So the disk is asked once for all of them, and none waits for more than the commit before its
own.  Each work is undone alone when it raises; all of them fail when their commit does.

An error of the disk ends it: what fsync has lost once it may report as written the next time, so
`failure` is set and every later call raises.  Only a restart, which reads what is really there,
helps.  A full disk is no such error: the works of that commit fail, later ones are tried.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from tribody.core.clock import Clock, MonotonicClock
from tribody.core.errors import StorageFailed
from tribody.storage.database import (
    Database,
    DatabaseBusy,
    Disconnected,
    DiskFull,
    StatementRefused,
)
from tribody.storage.opening import open_database

T = TypeVar("T")
MAX_WORKS = 256  # in one commit: about 50 ms of work at most
# After these the next commit may succeed.
PASSING = (DiskFull, DatabaseBusy, Disconnected, StatementRefused)


class _Job:
    """A work, what came of it, and whom to tell."""

    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(
        self,
        work: Callable[[Database], Any],
        future: Future[Any] | asyncio.Future[Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.work = work
        self.future = future
        self.loop = loop
        self.result: Any = None
        self.error: BaseException | None = None

    def tell(self) -> None:
        if self.future.done():  # whoever waited has been cancelled; the work is done all the same
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Writer:
    """Opens the database in a thread of its own; `close` ends both when the queue is empty.

    A work is a function of the database that runs inside a transaction.  It must not wait for
    anything, nor begin what cannot be undone: it is run once, but its commit may fail.
    """

    def __init__(self, where: Path | str, clock: Clock | None = None) -> None:
        """Raises: BadConfig or StorageFailed when the database cannot be opened."""
        self.failure: str | None = None
        self.on_commit: Callable[[float], None] | None = None  # is told how many seconds it took
        self._clock = clock or MonotonicClock()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()  # no job comes into the queue behind the None of `close`
        self._closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._live, args=(where, opened), name="ledger-writer", daemon=True
        )
        self._thread.start()
        opened.result()

    def submit(self, work: Callable[[Database], T]) -> Future[T]:
        """Its result when it is on the disk.  The work is done even if nobody waits any more."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        self._put(_Job(work, future, None))
        return future

    async def run(self, work: Callable[[Database], T]) -> T:
        """`submit` for coroutines.  Being cancelled ends the waiting, not the work."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Job(work, future, loop))
        return await future

    def close(self) -> None:
        """Do what is in the queue, then end.  Later calls raise StorageFailed."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self.failure is not None:
                raise StorageFailed(self.failure)
            if self._closed:
                raise StorageFailed("the database has been closed; nothing more is written")
            self._queue.put(job)

    def _live(self, where: Path | str, opened: Future[None]) -> None:
        try:
            database = open_database(where, examine=True)
        except BaseException as error:  # noqa: BLE001 - it is raised where the Writer is made
            opened.set_exception(error)
            return
        opened.set_result(None)
        try:
            while jobs := self._next_jobs():
                began = self._clock.now()
                self._commit(database, jobs)
                seconds = self._clock.now() - began
                _tell(jobs)
                if self.on_commit is not None:
                    self.on_commit(seconds)
                self._checkpoint(database)
        finally:
            database.close()

    def _next_jobs(self) -> list[_Job]:
        """Waits for one and takes those behind it; none at the end."""
        jobs: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == MAX_WORKS or self._queue.empty():
                return jobs
            job = self._queue.get()
        if jobs:
            self._queue.put(None)  # for the next call
        return jobs

    def _commit(self, database: Database, jobs: list[_Job]) -> None:
        if self.failure is not None:
            _fail(jobs, StorageFailed(self.failure))
            return
        try:
            with database.transaction():
                if len(jobs) == 1:
                    _do_alone(database, jobs[0])
                else:
                    for job in jobs:
                        _do(database, job)
        except _Undone:
            pass  # its own error is told
        except PASSING as error:
            _fail(jobs, error)
        except StorageFailed as error:
            self._stop(str(error))
            _fail(jobs, error)
        except BaseException as error:  # noqa: BLE001 - else those who wait would wait for ever
            self._stop(f"the writer failed: {type(error).__name__}")
            _fail(jobs, StorageFailed(self.failure))

    def _checkpoint(self, database: Database) -> None:
        if self.failure is not None:
            return
        try:
            database.checkpoint()
        except PASSING:
            pass  # the log stays longer
        except StorageFailed as error:
            self._stop(str(error))

    def _stop(self, reason: str) -> None:
        with self._lock:
            self.failure = (
                f"{reason}; nothing is written any more until the server is started again"
            )


class _Undone(Exception):
    """A work that was alone in its transaction has raised."""


def _do_alone(database: Database, job: _Job) -> None:
    """Undone with the whole transaction, it needs no savepoint of its own."""
    try:
        job.result = job.work(database)
    except StorageFailed:
        raise
    except BaseException as error:
        job.error = error
        raise _Undone from error


def _do(database: Database, job: _Job) -> None:
    """Raises: StorageFailed where the whole transaction is in doubt."""
    try:
        with database.transaction():
            job.result = job.work(database)
    except StatementRefused as error:
        job.error = error
    except StorageFailed:
        raise
    except BaseException as error:  # noqa: BLE001 - it is raised where the work came from
        job.error = error


def _fail(jobs: list[_Job], error: StorageFailed) -> None:
    for job in jobs:
        if job.error is None:
            job.error = type(error)(*error.args)  # each with a traceback of its own


def _tell(jobs: list[_Job]) -> None:
    """Each loop is woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        if job.loop is None:
            job.tell()
        else:
            loops.setdefault(job.loop, []).append(job)
    for loop, waiting in loops.items():
        try:
            loop.call_soon_threadsafe(_tell_here, waiting)
        except RuntimeError:  # the loop has been closed: nobody waits there
            continue


def _tell_here(jobs: list[_Job]) -> None:
    for job in jobs:
        job.tell()
