"""HTTP written by hand: any target, any header, however wrong, on a connection that is kept."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

CUT = 0  # the status of a request whose connection was cut before an answer


@dataclass(frozen=True)
class RawAnswer:
    status: int
    head: bytes
    body: bytes


class RawConnection:
    """To one server; connects again where that has closed."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._address = (address.hostname, address.port)
        self._socket: socket.socket | None = None
        self._received = b""

    def ask(
        self, method: str, target: str | bytes, headers: Sequence[bytes] = (), body: bytes = b""
    ) -> RawAnswer:
        """`headers`: whole lines; Host and Content-Length are added unless among them."""
        request = self._written(method, target, headers, body)
        is_new = self._socket is None
        answer = self._exchange(request, method)
        if answer.status == CUT and not is_new:  # the connection may have been closed before
            answer = self._exchange(request, method)
        return answer

    def send(
        self, method: str, target: str | bytes, headers: Sequence[bytes] = (), body: bytes = b""
    ) -> None:
        """`ask`, without waiting for the answer."""
        self._connect().sendall(self._written(method, target, headers, body))

    def _written(
        self, method: str, target: str | bytes, headers: Sequence[bytes], body: bytes
    ) -> bytes:
        given = {line.partition(b":")[0].lower() for line in headers}
        lines = [method.encode() + b" " + _bytes(target) + b" HTTP/1.1", *headers]
        if b"host" not in given:
            lines.append(b"Host: %b:%d" % (self._address[0].encode(), self._address[1]))
        if b"content-length" not in given:
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def _connect(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, 20)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._received = b""
        return self._socket

    def _exchange(self, request: bytes, method: str) -> RawAnswer:
        try:
            with contextlib.suppress(OSError):  # refused before it was read to the end
                self._connect().sendall(request)
            return self._answer(method)
        except OSError:
            self.close()
            return RawAnswer(CUT, b"", b"")

    def _answer(self, method: str) -> RawAnswer:
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, rest = self._received.partition(b"\r\n\r\n")
        closes = re.search(rb"(?i)\r\nconnection: *close", head) is not None
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        self._received = rest
        # An answer to HEAD has no body, but for one that was refused before its method was known.
        if method == "HEAD" and not closes:
            body = b""
        elif length is None:
            body = b"".join(self._chunks())
        else:
            body = self._take(int(length[1]))
        if closes:
            self.close()
        return RawAnswer(int(head.split(b" ", 2)[1]), head, body)

    def _chunks(self) -> Iterator[bytes]:
        size = 1
        while size:
            while b"\r\n" not in self._received:
                self._receive()
            line, _, self._received = self._received.partition(b"\r\n")
            size = int(line, 16)
            yield self._take(size)
            assert self._take(2) == b"\r\n"

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _receive(self) -> None:
        assert self._socket is not None
        received = self._socket.recv(65536)
        if not received:
            raise ConnectionError
        self._received += received

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
