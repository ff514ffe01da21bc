"""The server's side of the engine process: start it, watch it, restart it, and lose nothing.

The client keeps the prompt and every token received of each accepted request.  When the engine
process dies, is killed or stops giving signs of life, it is started again and all unfinished
requests are submitted anew with what they had already generated: the caller of `submit` sees a
pause and then the same tokens as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tribody.core.config import EngineConfig
from tribody.core.engine_info import EngineInfo, EngineStats
from tribody.core.errors import BadInput, BadModel, BadRequest, EngineFailed, Overloaded
from tribody.core.request import Event, Request
from tribody.engine import protocol
from tribody.engine.event_stream import Active, EventStream

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Patience:
    """How long the client waits before it calls the engine dead, and how often it tries again."""

    silence_seconds: float = 120.0  # a step of the largest models stays below this
    loading_silence_seconds: float = 600.0  # one tensor of a 671 B model from a slow disk
    max_failed_starts: int = 3  # in a row; then requests fail and the server is not ready
    max_resumes: int = 5  # of one request, which may be what kills the engine
    restart_seconds: float = 1.0  # at most one start in this time
    watch_seconds: float = 0.5


class EngineClient:
    """Make one with `await EngineClient.start(config)`; end it with `await client.close(...)`.

    Or `launch` it and do something else until it is `opened` and `started`.
    """

    def __init__(self, config: EngineConfig, patience: Patience, progress: Progress | None) -> None:
        self._config = config
        self._patience = patience
        self._progress = progress
        self._active: dict[str, Active] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._heard = 0.0
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened: asyncio.Future[protocol.Opened] = asyncio.get_running_loop().create_future()
        self._info: EngineInfo | None = None
        self._failure: str | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.stats = EngineStats()
        self.restarts = 0
        self.ready = False

    @classmethod
    def launch(
        cls,
        config: EngineConfig,
        *,
        patience: Patience | None = None,
        progress: Progress | None = None,
    ) -> EngineClient:
        """Begin to start the engine process; needs a running event loop."""
        client = cls(config, patience or Patience(), progress)
        client._keeper = asyncio.create_task(client._keep())
        return client

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        *,
        patience: Patience | None = None,
        progress: Progress | None = None,
    ) -> EngineClient:
        """Start the engine process and wait until it is ready.  Raises: as `started`."""
        client = cls.launch(config, patience=patience, progress=progress)
        try:
            await client.started()
        except BaseException:
            await client.close(0)
            raise
        return client

    async def process_exists(self) -> None:
        """Wait until the process has been told what to load; from there on it needs nobody.

        Raises: as `started`.
        """
        await asyncio.shield(self._told)

    async def opened(self) -> protocol.Opened:
        """What the model's files say of text, as soon as they are open; to be asked once, since it
        is not kept.  Raises: as `started`."""
        found = await asyncio.shield(self._opened)
        self._opened = asyncio.get_running_loop().create_future()
        return found

    async def started(self) -> None:
        """Wait until the engine is ready.

        Raises BadModel (or another BadInput) when the model cannot be used, EngineFailed when the
        process does not come up.
        """
        await asyncio.shield(self._started)

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None, "start() waits until the engine has introduced itself"
        return self._info

    @property
    def pid(self) -> int | None:
        """The engine process that serves now."""
        return self._process.pid if self._process is not None else None

    # ---- requests

    def submit(self, request: Request) -> EventStream:
        """Send a request; iterate over its events.  It counts as unfinished until its last event
        has come, or the stream is closed.

        Raises at once: EngineFailed when the engine is down for good, Overloaded when the queue
        is full.  Raises at the first step of the iteration: BadRequest when it cannot run.
        """
        if self._closing or self._failure is not None:
            raise EngineFailed(self._failure or "the server is shutting down")
        limit = self._config.max_running + self._config.max_waiting
        if len(self._active) >= limit:
            raise Overloaded(f"{limit} requests are under way, the most that may; try again later")
        if request.id in self._active:
            raise BadRequest(f"request id {request.id} is already in use")
        active = Active(request, generated=[[] for _ in range(request.n)])
        self._active[request.id] = active
        self._idle.clear()
        self._send(protocol.Submit(request))
        return EventStream(active, self._abort, self._drop)

    def _abort(self, active: Active) -> None:
        """End a request early if it has not ended; without an engine that knows it, at once."""
        if active.is_aborting or not self._is_unfinished(active):
            return
        active.is_aborting = True
        if self.ready:
            self._send(protocol.Abort(active.request.id))
        else:
            self._end(active, EngineFailed("the engine is down"))

    def _drop(self, active: Active) -> None:
        """Nobody listens to this request any more: abort it if it has not ended."""
        if self._is_unfinished(active):
            self._forget(active)
            if not active.is_aborting:
                self._send(protocol.Abort(active.request.id))

    def _is_unfinished(self, active: Active) -> bool:
        """An id may be used again when its request is over."""
        return self._active.get(active.request.id) is active

    def _end(self, active: Active, problem: Exception) -> None:
        """No engine will: see `Active.end`."""
        active.end(problem)
        self._forget(active)

    def _forget(self, active: Active) -> None:
        del self._active[active.request.id]
        if not self._active:
            self._idle.set()

    def _send(self, message: protocol.ToEngine) -> None:
        # While there is no process the message is dropped: the next one gets all that is active.
        # A process may be gone before `_keep` knows.
        if self._writer is not None and self.ready and not self._writer.is_closing():
            self._writer.write(protocol.frame(message))

    async def close(self, drain_seconds: float) -> None:
        """Wait up to `drain_seconds` for unfinished requests, then end the engine process."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_seconds)
        self._end_all(EngineFailed("the server is shutting down"))
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._end_process()

    # ---- the process

    async def _keep(self) -> None:
        """Keep an engine process running until closed; the only writer of process state."""
        failed_starts = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._run_once()
            except BadInput as bad:
                self._give_up(bad)
                return
            except (EngineFailed, OSError) as problem:
                log.error("event=engine_down reason=%s", str(problem).replace("\n", " "))
            failed_starts = 0 if self.ready else failed_starts + 1
            self.ready = False
            self._end_all(EngineFailed("the engine died"), only_aborting=True)
            await self._end_process()
            if failed_starts >= self._patience.max_failed_starts:
                reason = f"the engine process did not come up {failed_starts} times in a row"
                self._give_up(EngineFailed(reason))
                return
            self.restarts += 1
            self.stats = EngineStats()
            await asyncio.sleep(max(0.0, self._patience.restart_seconds - (loop.time() - began)))

    def _give_up(self, problem: Exception) -> None:
        self._failure = str(problem)
        self.ready = False
        self._end_all(EngineFailed(self._failure))
        stages: tuple[asyncio.Future[Any], ...] = (self._told, self._opened, self._started)
        for stage in stages:
            if not stage.done():
                stage.set_exception(problem)
                stage.exception()  # seen: not every stage has somebody who waits for it

    def _end_all(self, problem: Exception, *, only_aborting: bool = False) -> None:
        for active in list(self._active.values()):
            if active.is_aborting or not only_aborting:
                self._end(active, problem)

    async def _run_once(self) -> None:
        """Start a process and listen to it until it ends.  Raises EngineFailed or BadInput."""
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tribody.engine.process",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        level = logging.getLogger().getEffectiveLevel()
        self._writer.write(protocol.frame(protocol.Start(self._config, level)))
        if not self._told.done():
            self._told.set_result(None)
        self._heard = asyncio.get_running_loop().time()
        watchdog = asyncio.create_task(self._watch())
        try:
            await self._listen(reader)
        finally:
            watchdog.cancel()
        code = await self._process.wait()
        raise EngineFailed(f"the engine process ended (exit status {code})")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while self._process is not None:
            await asyncio.sleep(self._patience.watch_seconds)
            silence = loop.time() - self._heard
            patience = self._patience
            limit = patience.silence_seconds if self.ready else patience.loading_silence_seconds
            if silence > limit:
                log.error("event=engine_hangs silence_seconds=%.0f", silence)
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                return

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                head = await reader.readexactly(protocol.LENGTH.size)
                body = await reader.readexactly(protocol.LENGTH.unpack(head)[0])
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            self._heard = loop.time()
            message = protocol.from_engine.decode(body)
            if isinstance(message, protocol.StepDone):
                self.stats = message.stats
                for event in message.events:
                    self._pass_on(event)
            elif isinstance(message, protocol.Refused):
                self._refuse(message)
            elif isinstance(message, protocol.Opened):
                if not self._opened.done() and not self._started.done():
                    self._opened.set_result(message)
            elif isinstance(message, protocol.Loading):
                if self._progress is not None and not self._started.done():
                    self._progress(message.done_bytes, message.total_bytes)
            elif isinstance(message, protocol.Failed):
                problem = BadModel if message.bad_input else EngineFailed
                raise problem(message.message)
            else:
                self._info = message.info
                self.ready = True
                self._resume_all()
                if not self._started.done():
                    self._started.set_result(None)

    def _resume_all(self) -> None:
        for active in list(self._active.values()):
            active.resumes += self.restarts > 0
            if active.resumes > self._patience.max_resumes:
                reason = f"the engine failed {active.resumes} times while it ran this request"
                self._end(active, EngineFailed(reason))
            else:
                self._send(protocol.Submit(active.resumed()))

    def _pass_on(self, event: Event) -> None:
        active = self._active.get(event.request_id)
        if active is None:
            return  # closed a moment ago
        active.take(event)
        if event.usage is not None:
            self._forget(active)

    def _refuse(self, refused: protocol.Refused) -> None:
        active = self._active.get(refused.request_id)
        if active is None:
            return
        problem: Exception = (
            Overloaded(refused.message)
            if refused.overloaded
            else BadRequest(
                refused.message, param=refused.param, status=refused.status, code=refused.code
            )
        )
        active.inbox.put_nowait(problem)
        self._forget(active)

    async def _end_process(self) -> None:
        process, writer = self._process, self._writer
        self._process = self._writer = None
        if process is None:
            return
        if writer is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):  # uvloop's word for closed
                writer.write(protocol.frame(protocol.Stop()))
            writer.close()  # the reader thread of the process sees the end and exits
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            await asyncio.wait_for(process.wait(), 2.0)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
