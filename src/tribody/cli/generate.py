"""`tribody generate`: a JSONL file of requests in, a JSONL file of answers out, in many runs.

Answers are appended as they finish, one `write` and one `fsync` per line, so that a crash loses at
most the answers that were not finished.  A second run skips every id that the output already has;
a last line that was cut short is removed first.  Two runs on one output are refused (a lock).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tribody.cli.answers import FieldValue, refuse_ignored
from tribody.cli.engine_options import (
    DEFAULT_MODEL,
    EngineOptions,
    require_native,
)
from tribody.cli.environment import read_environment
from tribody.cli.local_service import local_service
from tribody.cli.logs import start_logging
from tribody.cli.script import config_for
from tribody.core.config import EngineConfig
from tribody.core.errors import BadConfig, BadInput, BadRequest
from tribody.server import openai_chat, openai_completions
from tribody.server.errors import ErrorDetail, error_for
from tribody.server.service import Service
from tribody.server.types import ChatCompletion, Completion

WAITING_PER_SLOT = 2  # requests under way per sequence of a step: the next is always ready

Line = dict[str, msgspec.Raw]
LineId = str | int


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the output: `text` is the first choice's, `response` the API's whole answer."""

    id: LineId
    text: str | None = None
    response: ChatCompletion | Completion | None = None
    error: ErrorDetail | None = None


class AnswerId(msgspec.Struct):
    """What a resumed run needs of an output line."""

    id: LineId


@dataclass(frozen=True)
class Job:
    """One input line that has no answer yet."""

    id: LineId
    line: Line


def run(
    source: Path,
    target: Path,
    model: str | None,
    defaults: Mapping[str, FieldValue],
    options: EngineOptions,
) -> int:
    """Answer what is unanswered.  Returns 0, or 1 when some lines were refused.

    Raises: BadConfig or BadInput on files that cannot be used; TribodyError when the model fails.
    """
    environment = read_environment(os.environ)
    start_logging(environment.log_level or "warning")
    with open_output(target) as output:
        done = repair(output, target)
        num_jobs = check_input(source, done)
        if num_jobs == 0:
            print(f"{target}: all {len(done)} answers are there already", file=sys.stderr)
            return 0
        require_native()
        config = config_for(model or environment.model or DEFAULT_MODEL, options, environment)
        console = Console(stderr=True, no_color=environment.no_color or None)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bars:
            task = bars.add_task("loading", total=len(done) + num_jobs, completed=len(done))
            batch = Batch(output, defaults, lambda: bars.update(task, advance=1))
            jobs = (job for job in read_jobs(source) if job.id not in done)

            def loaded() -> None:
                bars.update(task, description="generating")

            asyncio.run(batch.run(jobs, config, loaded))
    print(f"{target}: {num_jobs} answers, {batch.num_refused} of them errors", file=sys.stderr)
    return 1 if batch.num_refused else 0


# --- files -----------------------------------------------------------------------------------


def open_output(target: Path) -> BinaryIO:
    """Open for appending and reading, locked.  Raises: BadConfig."""
    try:
        output = target.open("a+b", buffering=0)
    except OSError as error:
        raise BadConfig(f"{target}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        output.close()
        raise BadConfig(f"{target}: another run is writing to it; wait for its end") from error
    return output


def repair(output: BinaryIO, target: Path) -> set[LineId]:
    """Cut off an unfinished last line; return the ids of all answers that are there.

    Raises: BadInput when a finished line is not an answer: the file is something else.
    """
    done: set[LineId] = set()
    good = 0
    output.seek(0)
    with os.fdopen(os.dup(output.fileno()), "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                done.add(msgspec.json.decode(line, type=AnswerId).id)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise BadInput(
                    f"{target} line {number} is not an answer of `tribody generate` ({error}); "
                    "name another output file"
                ) from error
            good += len(line)
    output.truncate(good)
    return done


def read_jobs(source: Path) -> Iterator[Job]:
    """Every non-empty line of the input.  Raises: BadInput that names the line."""
    try:
        with source.open("rb") as lines:
            for number, text in enumerate(lines, 1):
                if text.strip():
                    yield _job(source, number, text)
    except OSError as error:
        raise BadConfig(f"{source}: cannot be read: {error.strerror}") from error


def _job(source: Path, number: int, text: bytes) -> Job:
    try:
        line = msgspec.json.decode(text, type=Line)
        given = msgspec.json.decode(line.pop("id", b"null"), type=str | int | None)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(
            f"{source} line {number} is not a JSON object with an id: {error}"
        ) from error
    if ("prompt" in line) == ("messages" in line):
        raise BadInput(f"{source} line {number} must have either prompt or messages")
    return Job(number if given is None else given, line)


def check_input(source: Path, done: set[LineId]) -> int:
    """Read the whole input once: how many lines are unanswered.

    Raises: BadInput on a malformed line or an id that comes twice, before anything is loaded.
    """
    seen: set[LineId] = set()
    for job in read_jobs(source):
        if job.id in seen:
            raise BadInput(f"{source}: the id {job.id!r} comes twice; ids must differ")
        seen.add(job.id)
    return len(seen - done)


# --- the batch -------------------------------------------------------------------------------


class Batch:
    """Runs jobs through one local service and appends their answers."""

    def __init__(
        self, output: BinaryIO, defaults: Mapping[str, FieldValue], advance: Callable[[], None]
    ) -> None:
        self._output = output
        self._defaults = {name: msgspec.json.encode(value) for name, value in defaults.items()}
        self._advance = advance
        self.num_refused = 0

    async def run(
        self, jobs: Iterator[Job], config: EngineConfig, loaded: Callable[[], None]
    ) -> None:
        """Raises: what the engine raises; answers that were finished are on disk."""
        async with local_service(config) as service:
            loaded()
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(config.max_running * WAITING_PER_SLOT):
                        group.create_task(self._worker(service, jobs))
            except ExceptionGroup as failures:  # the workers fail alike: one says it all
                raise failures.exceptions[0] from None

    async def _worker(self, service: Service, jobs: Iterator[Job]) -> None:
        for job in jobs:  # the workers share one iterator
            answer = await self._answer(service, job)
            self.num_refused += answer.error is not None
            self._output.write(msgspec.json.encode(answer) + b"\n")
            os.fsync(self._output.fileno())
            self._advance()

    async def _answer(self, service: Service, job: Job) -> Answer:
        """Run one line; a line that is refused gets its error as its answer."""
        model = msgspec.json.encode(service.models.models[0].model_id)
        defaults = dict(self._defaults)
        if "prompt" in job.line or "chat_template_kwargs" in job.line:
            defaults.pop("thinking", None)  # a text is only continued; that field says the same
        fields = {**defaults, **job.line, "model": model, "stream": b"false"}
        body = msgspec.json.encode({name: msgspec.Raw(raw) for name, raw in fields.items()})
        caller = service.local_caller()
        try:
            if "messages" in job.line:
                call = service.new_call("local", caller, "chat")
                chat = await service.off_loop(openai_chat.prepare, service, body, caller)
                refuse_ignored(chat.ignored)
                whole = await openai_chat.answer(service, chat, call)
                return Answer(id=job.id, text=whole.choices[0].message.content, response=whole)
            call = service.new_call("local", caller, "completions")
            raw = await service.off_loop(openai_completions.prepare, service, body, caller)
            completion = await openai_completions.answer(service, raw, call)
            return Answer(id=job.id, text=completion.choices[0].text, response=completion)
        except BadRequest as error:
            return Answer(id=job.id, error=error_for(error).detail)
