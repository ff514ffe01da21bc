"""What the server and the engine process say to each other: msgpack frames on a Unix socket.

A frame is a little-endian uint32 length and that many bytes of msgpack.  Both ends are ours and
start together from one installation, so there is no version negotiation.
"""

from __future__ import annotations

import socket
import struct

import msgspec

from tribody.core.config import EngineConfig
from tribody.core.engine_info import EngineInfo, EngineStats
from tribody.core.request import Event, Request
from tribody.core.tokenizer_source import TokenizerSource

LENGTH = struct.Struct("<I")


class Start(msgspec.Struct, tag=True):
    """First message to the engine process: what to load, and from which level on to log."""

    config: EngineConfig
    log_level: int


class Submit(msgspec.Struct, tag=True):
    request: Request


class Abort(msgspec.Struct, tag=True):
    request_id: str


class Stop(msgspec.Struct, tag=True):
    """Exit now; whatever is unfinished is dropped."""


class Opened(msgspec.Struct, tag=True):
    """The model's files are open: what they say of text, so that the server need not read them."""

    tokenizer_source: TokenizerSource
    model_type: str


class Loading(msgspec.Struct, tag=True):
    """Progress of loading, in bytes of weights; also a sign of life."""

    done_bytes: int
    total_bytes: int


class Ready(msgspec.Struct, tag=True):
    info: EngineInfo


class StepDone(msgspec.Struct, tag=True):
    """The events of one step and the gauges after it.  An idle engine sends empty ones."""

    events: list[Event]
    stats: EngineStats


class Refused(msgspec.Struct, tag=True):
    """A submitted request was not accepted."""

    request_id: str
    message: str
    param: str | None = None
    status: int = 400
    code: str = "invalid_request_error"
    overloaded: bool = False


class Failed(msgspec.Struct, tag=True):
    """The engine could not start.  `bad_input`: the user can mend it, so no restart is tried."""

    message: str
    bad_input: bool


ToEngine = Start | Submit | Abort | Stop
FromEngine = Opened | Loading | Ready | StepDone | Refused | Failed

_encoder = msgspec.msgpack.Encoder()
to_engine = msgspec.msgpack.Decoder(ToEngine)
from_engine = msgspec.msgpack.Decoder(FromEngine)


def frame(message: ToEngine | FromEngine) -> bytes:
    """A message as it goes over the socket."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def receive(connection: socket.socket) -> ToEngine | None:
    """Blocking read of one message; None when the other end has closed."""
    head = _receive_exactly(connection, LENGTH.size)
    if head is None:
        return None
    body = _receive_exactly(connection, LENGTH.unpack(head)[0])
    return None if body is None else to_engine.decode(body)


def _receive_exactly(connection: socket.socket, size: int) -> bytes | None:
    buffer = bytearray()
    while len(buffer) < size:
        part = connection.recv(min(size - len(buffer), 1 << 20))
        if not part:
            return None
        buffer += part
    return bytes(buffer)
