"""Runs batches behind everything else, and goes on with them after a restart.

Each answer is on the disk, in the batch's journal, before its line counts as answered; so whatever
ends the server, a line that has an answer is not asked again, and one that has none is.  When all
lines are in the journal the output and error files are made from it, under ids that were reserved
when the batch was made: to do that twice is to do it once.

All batches run at once and share a number of places for lines, so that a small one does not wait
for a large one.  In the engine their requests have background priority.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tribody.core.errors import BadRequest
from tribody.core.principal import Principal
from tribody.server import limits
from tribody.server.auth import check_routes
from tribody.server.batch_lines import (
    SCOPE_OF,
    Asking,
    answer_line,
    check_lines,
    input_lines,
    unanswered,
)
from tribody.server.batch_types import (
    BATCH_ID,
    ENDED,
    AnswerLine,
    BatchErrors,
    BatchObject,
    BatchRequest,
    JournalLine,
    RequestCounts,
    RequestLine,
    StoredBatch,
)
from tribody.server.data_folder import DataFolder, Journal, new_id
from tribody.server.errors import TooManyRequests
from tribody.server.file_store import FileStore, size_of
from tribody.server.service import Service

logger = logging.getLogger(__name__)

LINES_AT_ONCE = 16
# Lines under way, of all batches: twice what the scheduler runs of the background, so that it never
# waits for the next, and few enough that the queue has room for everybody else.
EXPIRED = "batch_expired", "The batch's time was over before this request was run."
CANCELLED = "batch_cancelled", "The batch was cancelled before this request was run."


class _Answers:
    """The journal of one batch, and what it says: which lines are answered, how many went well."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.done: set[int] = set()
        self.completed = self.failed = 0
        self._writing = asyncio.Lock()
        self._closed = False
        for raw in self.journal.lines():
            self._count(msgspec.json.decode(raw, type=JournalLine))

    def _count(self, line: JournalLine) -> None:
        self.done.add(line.line)
        self.completed += line.ok
        self.failed += not line.ok

    async def add(self, index: int, answer: AnswerLine) -> None:
        ok = answer.response is not None and answer.response.status_code == 200
        line = JournalLine(line=index, ok=ok, answer=msgspec.Raw(msgspec.json.encode(answer)))
        raw = msgspec.json.encode(line)
        await asyncio.shield(self._add(line, raw))  # not given up half way

    async def _add(self, line: JournalLine, raw: bytes) -> None:
        async with self._writing:
            if self._closed or line.line in self.done:
                return
            await asyncio.to_thread(self.journal.append, raw)
            self._count(line)

    async def close(self) -> None:
        async with self._writing:
            self._closed = True
            self.journal.close()


class BatchRunner:
    """All batches of one data folder.  `start` it within the event loop, `stop` it before that
    ends."""

    def __init__(self, service: Service, folder: DataFolder, files: FileStore) -> None:
        self._service = service
        self._folder = folder
        self._files = files
        self._places = asyncio.Semaphore(LINES_AT_ONCE)
        self._batches = {
            stored.batch.id: stored for stored in folder.records("batches", StoredBatch)
        }
        folder.remove_strays("batches", ".input", self._batches)
        self._answers: dict[str, _Answers] = {}  # of batches that run
        self._lines: dict[str, asyncio.Task[None]] = {}  # the work on their lines
        self._runs: set[asyncio.Task[None]] = set()
        self._stopped = False

    # ---- requests

    async def create(self, fields: BatchRequest, caller: Principal) -> BatchObject:
        """Raises: BadRequest, Forbidden, TooManyRequests."""
        check_routes(caller, SCOPE_OF[fields.endpoint])
        file = self._files.find(caller.tenant_id, fields.input_file_id, "input_file_id")
        if file.purpose != "batch":
            raise BadRequest(
                f"The file has the purpose {file.purpose!r}; upload it with 'batch'.",
                param="input_file_id",
            )
        mine = [s.batch for s in self._batches.values() if s.owner == caller.tenant_id]
        if sum(batch.status not in ENDED for batch in mine) >= limits.MAX_OPEN_BATCHES:
            raise TooManyRequests(
                f"{limits.MAX_OPEN_BATCHES} of your batches have not ended, which is as many as "
                "may be; wait for one, or cancel one."
            )
        now, after = self._now(), fields.output_expires_after
        batch = BatchObject(
            id=new_id("batch_"),
            endpoint=fields.endpoint,
            input_file_id=file.id,
            status="validating",
            created_at=now,
            expires_at=now + limits.BATCH_SECONDS,
            metadata=fields.metadata,
        )
        stored = StoredBatch(
            batch=batch,
            owner=caller.tenant_id,
            key_id=caller.key_id,
            output_id=new_id("file-api-"),
            error_id=new_id("file-api-"),
            keep_seconds=limits.MAX_KEEP_SECONDS if after is None else after.seconds,
        )
        self._folder.link(self._files.path(file), "batches", f"{batch.id}.input")
        self._save(stored)
        self._begin(stored)
        return batch

    def find(self, owner: str, batch_id: str) -> BatchObject:
        """Raises: BadRequest (404) when the owner has no such batch, whoever else may."""
        stored = self._batches.get(batch_id) if BATCH_ID.fullmatch(batch_id) else None
        if stored is None or stored.owner != owner:
            raise BadRequest(
                "There is no such batch; GET /v1/batches lists yours.",
                param="batch_id",
                status=404,
                code="batch_not_found",
            )
        return self._counted(stored.batch)

    def owned(self, owner: str) -> list[BatchObject]:
        """The owner's batches, the oldest first."""
        mine = (s.batch for s in self._batches.values() if s.owner == owner)
        return sorted(map(self._counted, mine), key=lambda batch: (batch.created_at, batch.id))

    def cancel(self, owner: str, batch_id: str) -> BatchObject:
        """Raises: BadRequest for one that has ended."""
        batch = self.find(owner, batch_id)
        if batch.status in ENDED or batch.status == "finalizing":
            raise BadRequest(
                f"The batch is {batch.status}; it can no longer be cancelled.", param="batch_id"
            )
        if batch.status != "cancelling":
            self._change(batch_id, status="cancelling", cancelling_at=self._now())
            if batch_id in self._lines:
                self._lines[batch_id].cancel()
        return self.find(owner, batch_id)

    def _counted(self, batch: BatchObject) -> BatchObject:
        answers = self._answers.get(batch.id)
        if answers is None:
            return batch
        counts = msgspec.structs.replace(
            batch.request_counts, completed=answers.completed, failed=answers.failed
        )
        return msgspec.structs.replace(batch, request_counts=counts)

    # ---- the server's life

    def start(self) -> None:
        """Go on with what has not ended, and forget what ended long ago."""
        for stored in list(self._batches.values()):
            batch = stored.batch
            if batch.status not in ENDED:
                self._begin(stored)
                continue
            self._clear(batch.id)
            if self._now() >= batch.expires_at + limits.MAX_KEEP_SECONDS:
                del self._batches[batch.id]
                self._folder.remove("batches", f"{batch.id}.json")

    async def stop(self) -> None:
        """Drop what is under way; the next start goes on with it."""
        self._stopped = True
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    def _begin(self, stored: StoredBatch) -> None:
        if self._stopped:
            return
        if self._caller_of(stored) is None:
            logger.warning("event=batch_waits batch=%s reason=its_key_is_gone", stored.batch.id)
        run = asyncio.create_task(self._run(stored.batch.id))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)

    def _caller_of(self, stored: StoredBatch) -> Principal | None:
        """Whom it is done for as things are now; None: it waits."""
        caller = self._service.caller_of(stored.owner, stored.key_id)
        return caller and msgspec.structs.replace(caller, priority="background")

    # ---- one batch

    async def _run(self, batch_id: str) -> None:
        try:
            await self._to_the_end(batch_id)
        except Exception as error:  # noqa: BLE001 - the outermost layer of a batch
            # The disk is full, or somebody was in the folder.  The next start goes on.
            logger.error("event=batch_stopped batch=%s error=%s", batch_id, type(error).__name__)
        finally:
            answers = self._answers.pop(batch_id, None)
            if answers is not None:
                await answers.close()

    async def _to_the_end(self, batch_id: str) -> None:
        batch = self._batches[batch_id].batch
        if batch.status == "validating" and not await self._validate(batch):
            return
        answers = _Answers(self._folder.path("batches", f"{batch_id}.answers"))
        self._answers[batch_id] = answers
        lines = asyncio.create_task(self._answer_all(batch_id, answers))
        self._lines[batch_id] = lines
        try:
            if self._batches[batch_id].batch.status == "cancelling":
                lines.cancel()
            await asyncio.wait({lines}, timeout=max(0, batch.expires_at - self._now()))
        finally:
            del self._lines[batch_id]
            lines.cancel()
            await asyncio.gather(lines, return_exceptions=True)
        if not lines.cancelled():
            lines.result()
        is_cancelled = self._batches[batch_id].batch.status == "cancelling"
        left = await self._answer_rest(batch_id, answers, CANCELLED if is_cancelled else EXPIRED)
        end = "cancelled" if is_cancelled else "expired" if left else "completed"
        await self._finish(batch_id, answers, end)

    async def _validate(self, batch: BatchObject) -> bool:
        path = self._folder.path("batches", f"{batch.id}.input")
        count, errors = await asyncio.to_thread(check_lines, path, batch.endpoint)
        if errors:
            found = BatchErrors(data=errors)
            self._change(batch.id, status="failed", errors=found, failed_at=self._now())
            self._clear(batch.id)
            return False
        if self._batches[batch.id].batch.status == "validating":
            self._change(batch.id, status="in_progress")
        counts = RequestCounts(total=count)
        self._change(batch.id, in_progress_at=self._now(), request_counts=counts)
        return True

    async def _answer_all(self, batch_id: str, answers: _Answers) -> None:
        """At most as many lines as there are places: some may wait for longer, without one."""
        begun = asyncio.Semaphore(LINES_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for index, raw in enumerate(self._input(batch_id)):
                if index in answers.done:
                    continue
                line = msgspec.json.decode(raw, type=RequestLine)
                await begun.acquire()
                task = group.create_task(self._answer_one(batch_id, index, line, answers))
                # Not in the task itself, which may be cancelled before it begins.
                task.add_done_callback(lambda _: begun.release())

    async def _answer_one(
        self, batch_id: str, index: int, line: RequestLine, answers: _Answers
    ) -> None:
        def caller_of() -> Principal | None:
            return self._caller_of(self._batches[batch_id])

        def given_up() -> bool:
            return self._batches[batch_id].batch.status == "cancelling"

        asking = Asking(f"{batch_id}/{index}", caller_of, given_up)
        answer = await answer_line(self._service, line, asking, self._places)
        await answers.add(index, answer)

    async def _answer_rest(self, batch_id: str, answers: _Answers, reason: tuple[str, str]) -> int:
        """Say of all lines without an answer why; returns how many these are."""
        left = 0
        for index, raw in enumerate(self._input(batch_id)):
            if index not in answers.done:
                line = msgspec.json.decode(raw, type=RequestLine)
                await answers.add(index, unanswered(line, *reason))
                left += 1
        return left

    def _input(self, batch_id: str) -> Iterator[bytes]:
        return input_lines(self._folder.path("batches", f"{batch_id}.input"))

    async def _finish(self, batch_id: str, answers: _Answers, end: str) -> None:
        """Make the files, then say so."""
        if end == "completed":
            self._change(batch_id, status="finalizing", finalizing_at=self._now())
        output, errors = await asyncio.to_thread(self._make_files, batch_id, answers)
        counted = self._counted(self._batches[batch_id].batch).request_counts
        self._change(
            batch_id,
            status=end,
            output_file_id=output,
            error_file_id=errors,
            request_counts=counted,
            **{f"{end}_at": self._now()},
        )
        self._clear(batch_id)
        logger.info(
            "event=batch_ended batch=%s status=%s completed=%d failed=%d",
            batch_id,
            end,
            counted.completed,
            counted.failed,
        )

    def _make_files(self, batch_id: str, answers: _Answers) -> tuple[str | None, str | None]:
        """The ids of the output and of the errors; None where there are none.  Runs in a thread."""
        stored = self._batches[batch_id]
        made: list[str | None] = []
        for ok, file_id, count in (
            (True, stored.output_id, answers.completed),
            (False, stored.error_id, answers.failed),
        ):
            if count:
                self._make_file(stored, answers, file_id, ok=ok)
            made.append(file_id if count else None)
        return made[0], made[1]

    def _make_file(self, stored: StoredBatch, answers: _Answers, file_id: str, *, ok: bool) -> None:
        name = f"{stored.batch.id}_{'output' if ok else 'error'}.jsonl"
        with tempfile.TemporaryFile(dir=self._folder.root) as content:
            for raw in answers.journal.lines():
                line = msgspec.json.decode(raw, type=JournalLine)
                if line.ok == ok:
                    content.write(bytes(line.answer) + b"\n")
            size, keep = size_of(content), stored.keep_seconds
            file = self._files.described(name, "batch_output", size, keep, file_id)
            self._files.add(stored.owner, file, content)

    # ---- state

    def _now(self) -> int:
        return int(self._service.wall_seconds())

    def _change(self, batch_id: str, **fields: object) -> None:
        stored = self._batches[batch_id]
        batch = msgspec.structs.replace(stored.batch, **fields)
        self._save(msgspec.structs.replace(stored, batch=batch))

    def _save(self, stored: StoredBatch) -> None:
        self._folder.write_record("batches", stored.batch.id, stored)
        self._batches[stored.batch.id] = stored

    def _clear(self, batch_id: str) -> None:
        self._folder.remove("batches", f"{batch_id}.input", f"{batch_id}.answers")
