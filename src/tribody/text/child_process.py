"""A child process that answers one question at a time, for work on untrusted input.

What can exhaust the machine, overflow the stack or never end is done there: the child has a limit
on its address space, the parent a deadline.  A child that dies or hangs is replaced at the next
question, and only the question that met it fails.

The messages are length-prefixed bytes over the child's standard input and output.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import IO

MEMORY_LIMIT_BYTES = 512 << 20  # address space of the child; an idle Python takes about 60 MB

_LENGTH = struct.Struct("<I")


class ChildFailed(Exception):
    """There is no answer, and there is no child any more; the message says why."""


class ChildProcess:
    """`python -m module`, started when first asked.  One thread may use it at a time."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._child: subprocess.Popen[bytes] | None = None
        self._release: Callable[[], object] = _no_child

    @property
    def runs(self) -> bool:
        return self._child is not None

    def ask(self, question: bytes, seconds: float) -> bytes:
        """The answer.  Raises: ChildFailed if the child dies or is too slow."""
        if self._child is None:
            self._start()
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(_LENGTH.pack(len(question)) + question)
            child.stdin.flush()
            deadline = time.monotonic() + seconds
            (size,) = _LENGTH.unpack(_read(child.stdout, _LENGTH.size, deadline))
            return _read(child.stdout, size, deadline)
        except (OSError, TimeoutError, EOFError) as error:
            self.stop()
            why = "took too long" if isinstance(error, TimeoutError) else "exhausted its limits"
            raise ChildFailed(why) from None
        except BaseException:  # Ctrl-C between question and answer: the next answer is not ours
            self.stop()
            raise

    def stop(self) -> None:
        """End the child; a later question starts another."""
        self._child = None
        self._release()

    def _start(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._release = weakref.finalize(self, _end, self._child)


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


# ---- the child's side


def questions() -> Iterator[bytes]:
    """In the child: what it is asked, after its limits are set.  It ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then drains
    _limit_memory()
    while header := sys.stdin.buffer.read(_LENGTH.size):
        (size,) = _LENGTH.unpack(header)
        yield sys.stdin.buffer.read(size)


def answer(body: bytes) -> None:
    """In the child: answer the question that came last."""
    sys.stdout.buffer.write(_LENGTH.pack(len(body)) + body)
    sys.stdout.buffer.flush()


def _limit_memory() -> None:
    import resource  # not on every system that Python runs on

    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
