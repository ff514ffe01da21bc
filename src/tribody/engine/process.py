"""The engine process: `python -m tribody.engine.process FD`, a child of the server.

The main thread runs the engine; a second thread only reads the socket.  When the server goes away
the process exits at once, even from the middle of a step.  It ignores SIGINT and SIGTERM, because
the server that drains is the one that decides when the engine ends.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading

from tribody.core.errors import BadInput, BadRequest, EngineFailed, Overloaded
from tribody.core.logs import LOG_FORMAT
from tribody.core.tokenizer_source import TokenizerSource
from tribody.engine import protocol
from tribody.engine.build import build_engine
from tribody.engine.engine import Engine
from tribody.engine.machine import give_back_memory
from tribody.engine.scripted import build_scripted

SIGN_OF_LIFE_SECONDS = 1.0  # an idle engine says so this often; the server's watchdog listens

Inbox = queue.SimpleQueue[protocol.ToEngine]


def main(arguments: list[str]) -> int:
    """Load what the first message says, then serve until the server says stop or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=int(arguments[0]))
    first = protocol.receive(connection)
    if not isinstance(first, protocol.Start):
        return 1
    logging.basicConfig(level=first.log_level, format=LOG_FORMAT)
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()

    def progress(done_bytes: int, total_bytes: int) -> None:
        connection.sendall(protocol.frame(protocol.Loading(done_bytes, total_bytes)))

    def opened(source: TokenizerSource, model_type: str) -> None:
        connection.sendall(protocol.frame(protocol.Opened(source, model_type)))

    try:
        if first.config.script is None:
            engine, info = build_engine(first.config, progress, opened)
        else:
            engine, info = build_scripted(first.config, first.config.script, opened)
    except (BadInput, EngineFailed) as problem:
        failed = protocol.Failed(str(problem), bad_input=isinstance(problem, BadInput))
        connection.sendall(protocol.frame(failed))
        return 1
    give_back_memory()
    connection.sendall(protocol.frame(protocol.Ready(info)))
    return _serve(engine, inbox, connection)


def _read(connection: socket.socket, inbox: Inbox) -> None:
    """Pass messages on; leave with the server, whatever the main thread is doing."""
    try:
        while (message := protocol.receive(connection)) is not None:
            inbox.put(message)
    finally:
        os._exit(0)


def _serve(engine: Engine, inbox: Inbox, connection: socket.socket) -> int:
    was_busy = False
    while True:
        busy = engine.has_work()
        if was_busy and not busy:
            engine.check()
        was_busy = busy
        try:
            message = inbox.get(timeout=SIGN_OF_LIFE_SECONDS) if not busy else inbox.get_nowait()
            while True:
                if isinstance(message, protocol.Stop):
                    return 0
                refused = _take(engine, message)
                if refused is not None:
                    connection.sendall(protocol.frame(refused))
                message = inbox.get_nowait()
        except queue.Empty:
            pass
        events = engine.step() if engine.has_work() else []
        connection.sendall(protocol.frame(protocol.StepDone(events, engine.stats())))


def _take(engine: Engine, message: protocol.ToEngine) -> protocol.Refused | None:
    if isinstance(message, protocol.Abort):
        engine.abort(message.request_id)
    elif isinstance(message, protocol.Submit):
        request = message.request
        try:
            engine.submit(request)
        except BadRequest as bad:
            return protocol.Refused(request.id, str(bad), bad.param, bad.status, bad.code)
        except Overloaded as full:
            return protocol.Refused(request.id, str(full), status=503, overloaded=True)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
