"""A model's own chat template, run in a process of its own.

Fuel ends a template's loops, but nothing in minijinja bounds its memory, and a hostile template
can overflow its stack.  Here that costs one small process, not the server: the child has a limit
on its address space, the parent a deadline; a child that dies or hangs is replaced at the next
rendering, and only the request that met it fails.  The price is about 0.05 ms a rendering and
25 MB per model.

The module is both ends: `TemplateProcess` in the parent, `main` in the child (`python -m`).
The messages are length-prefixed JSON over the child's standard input and output.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from datetime import datetime
from typing import IO

import msgspec

from tribody.text.template_engine import FailureKind, TemplateEngine, TemplateFailed

MEMORY_LIMIT_BYTES = 512 << 20
# Address space of the child.  An idle one takes about 60 MB; a megabyte of messages adds 20 MB.

DEADLINE_SECONDS = 2.0
# For one rendering.  A megabyte of messages takes about 10 ms (2-core x86-64 virtual machine).

START_SECONDS = 60.0
# For starting Python and compiling the template, 0.1 s when the machine is idle.

_LENGTH = struct.Struct("<I")


class _Compile(msgspec.Struct, tag="compile"):
    source: str


class _Render(msgspec.Struct, tag="render"):
    variables: dict[str, object]
    now: datetime


class _Answer(msgspec.Struct):
    """`text` of a rendering ("" for a compilation), or why there is none."""

    text: str = ""
    failure: FailureKind | None = None
    message: str = ""


class TemplateProcess:
    """The same interface as `TemplateEngine`.  Safe to share between threads; renders one by one.

    Raises: TemplateFailed("syntax") at construction if the template cannot be compiled.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._release: Callable[[], object] = _no_child
        with self._lock:
            self._start()

    def render(self, variables: dict[str, object], now: datetime) -> str:
        """As `TemplateEngine.render`; TemplateFailed("limit") if the child died or was too slow."""
        request = msgspec.json.encode(_Render(variables=variables, now=now))
        with self._lock:
            if self._child is None:
                self._start()
            return self._ask(request, DEADLINE_SECONDS)

    def close(self) -> None:
        """Stop the child; a later `render` starts another."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tribody.text.template_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._release = weakref.finalize(self, _end, self._child)
        try:
            self._ask(msgspec.json.encode(_Compile(source=self._source)), START_SECONDS)
        except TemplateFailed as error:
            self._stop()
            raise TemplateFailed("syntax", str(error)) from None

    def _stop(self) -> None:
        self._child = None
        self._release()

    def _ask(self, request: bytes, seconds: float) -> str:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(_LENGTH.pack(len(request)) + request)
            child.stdin.flush()
            deadline = time.monotonic() + seconds
            (size,) = _LENGTH.unpack(_read(child.stdout, _LENGTH.size, deadline))
            answer = msgspec.json.decode(_read(child.stdout, size, deadline), type=_Answer)
        except (OSError, TimeoutError, EOFError) as error:
            self._stop()
            why = "took too long" if isinstance(error, TimeoutError) else "exhausted its limits"
            raise TemplateFailed("limit", why) from None
        except BaseException:  # Ctrl-C between question and answer: the next answer is not ours
            self._stop()
            raise
        if answer.failure is not None:
            raise TemplateFailed(answer.failure, answer.message)
        return answer.text


def _no_child() -> None:
    """What there is to release before the first child is started."""


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill and reap the child: it holds nothing worth a farewell."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # unwritten bytes for a child that is gone
                pipe.close()


def _read(pipe: IO[bytes], size: int, deadline: float) -> bytes:
    """Exactly `size` bytes of a pipe, past its buffer, or TimeoutError or EOFError."""
    poller = select.poll()
    poller.register(pipe, select.POLLIN | select.POLLHUP)
    parts = []
    while size:
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            raise TimeoutError
        part = os.read(pipe.fileno(), min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def main() -> None:
    """The child: one template, compiled by the first message, rendered by all others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then drains
    _limit_memory()
    decoder = msgspec.json.Decoder(_Compile | _Render)
    engine: TemplateEngine | None = None
    while header := sys.stdin.buffer.read(_LENGTH.size):
        (size,) = _LENGTH.unpack(header)
        message = decoder.decode(sys.stdin.buffer.read(size))
        answer = _Answer()
        try:
            if isinstance(message, _Compile):
                engine = TemplateEngine(message.source)
            else:
                assert engine is not None, "the first message compiles"
                answer.text = engine.render(message.variables, message.now)
        except TemplateFailed as error:
            answer = _Answer(failure=error.kind, message=str(error))
        body = msgspec.json.encode(answer)
        sys.stdout.buffer.write(_LENGTH.pack(len(body)) + body)
        sys.stdout.buffer.flush()


def _limit_memory() -> None:
    import resource  # not on every system that Python runs on

    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
