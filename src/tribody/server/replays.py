"""Answers by Idempotency-Key: a request that is sent twice is answered once, and charged once.

A whole answer is kept and sent again; a second request that comes while the first is under way
waits for it.  A stream is not kept: whoever asks again is told that it has been answered.  What
failed is forgotten, so that it may be tried again.

In memory and bounded; with accounts the ledger remembers the key for good, not the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from tribody.core.clock import Clock
from tribody.core.errors import BadRequest

KEY = re.compile(r"[\x21-\x7e]{1,255}")
KEEP_SECONDS = 24 * 3600.0
MAX_BYTES = 64 * 2**20  # of all answers that are kept; the oldest go first
MAX_ANSWERS = 10_000


@dataclass(frozen=True)
class Identity:
    """By what a request is known: whose key it is, and what the body was."""

    owner: str
    key: str
    digest: str

    @classmethod
    def of(cls, owner: str, key: str, path: str, body: bytes) -> Identity:
        """Raises: BadRequest on a key that is none."""
        if KEY.fullmatch(key) is None:
            raise BadRequest(
                "Idempotency-Key must be 1 to 255 printable ASCII characters without spaces."
            )
        return cls(owner, key, hashlib.sha256(path.encode() + b"\0" + body).hexdigest())


@dataclass
class _Answer:
    digest: str
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    body: bytes | None = None  # None when it has ended: a stream
    at: float = 0.0


class Replays:
    """Used within one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: OrderedDict[tuple[str, str], _Answer] = OrderedDict()
        self._bytes = 0

    async def once(
        self, identity: Identity, make: Callable[[], Awaitable[bytes]]
    ) -> tuple[bytes, bool]:
        """The body, and whether an earlier request had it made.

        Raises: BadRequest (422) for the same key with another body, (409) for one that was
        streamed; what `make` raises.
        """
        while (answer := self._find(identity)) is not None:
            if answer.body is not None:
                return answer.body, True
            if answer.ended.is_set():
                raise _answered()
            await answer.ended.wait()
        with self._making(identity) as answer:
            answer.body = await make()
        return answer.body, False

    @contextlib.contextmanager
    def streaming(self, identity: Identity) -> Iterator[None]:
        """Around a stream.  Raises: BadRequest (422, 409) at the start, as `once`."""
        if self._find(identity) is not None:
            raise _answered()
        with self._making(identity):
            yield

    @contextlib.contextmanager
    def _making(self, identity: Identity) -> Iterator[_Answer]:
        name = (identity.owner, identity.key)
        answer = self._answers[name] = _Answer(identity.digest)
        try:
            yield answer
        except BaseException:
            del self._answers[name]
            raise
        else:
            answer.at = self._clock.now()
            self._answers.move_to_end(name)
            self._bytes += len(answer.body or b"")
            self._forget()
        finally:
            answer.ended.set()

    def _find(self, identity: Identity) -> _Answer | None:
        self._forget()
        answer = self._answers.get((identity.owner, identity.key))
        if answer is not None and answer.digest != identity.digest:
            raise BadRequest(
                "This Idempotency-Key was used with another request; use a new one.",
                status=422,
                code="idempotency_conflict",
            )
        return answer

    def _forget(self) -> None:
        """What is too old or too much.  What is under way stays: it is bounded by the queue."""
        now = self._clock.now()
        for name, answer in list(self._answers.items()):
            too_much = self._bytes > MAX_BYTES or len(self._answers) > MAX_ANSWERS
            if not answer.ended.is_set():
                continue
            if not too_much and now - answer.at < KEEP_SECONDS:
                break  # the others ended later
            del self._answers[name]
            self._bytes -= len(answer.body or b"")


def _answered() -> BadRequest:
    return BadRequest(
        "A request with this Idempotency-Key is being answered or was, as a stream, which is not "
        "kept; it is charged once.",
        status=409,
        code="idempotency_key_used",
    )
