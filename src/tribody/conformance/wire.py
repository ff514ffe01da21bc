"""The one client of the suite: HTTP as bytes, server-sent events, and raw sockets.

It repairs nothing and follows nothing: no redirects, no content decoding; a request is sent again
only where its connection broke.  Answers are read whole, up to a bound, and taken apart afterwards.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2

from tribody.conformance.json_value import Value
from tribody.conformance.verdict import Failed, expect, shown
from tribody.core.errors import BadConfig

MAX_ANSWER_BYTES = 32 * 2**20
SILENCE_SECONDS = 120.0  # a small model on a slow machine stays below this
RAW_SECONDS = 5.0  # servers close or answer a malformed request well before


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, complete."""

    status: int
    headers: httpx2.Headers
    body: bytes
    what: str = "the request"  # for sentences: "POST /v1/models"

    def json(self) -> Value:
        """Leading blank lines are allowed: they are keep-alives of a plain body."""
        try:
            return Value(json.loads(self.body))
        except (ValueError, RecursionError):
            text = self.body[:300].decode(errors="replace")
            raise Failed(f"expected JSON from {self.what}; got {shown(text)}") from None

    def ok(self) -> Value:
        """The JSON of a 200.  Raises: Failed."""
        self.expect_status(200)
        return self.json()

    def expect_status(self, *allowed: int) -> Answer:
        if self.status not in allowed:
            wanted = " or ".join(map(str, allowed))
            text = self.body[:300].decode(errors="replace")
            raise Failed(f"expected {wanted} from {self.what}; got {self.status}: {shown(text)}")
        return self

    def refused(self, *allowed: int) -> Answer:
        """The request was wrong and the server said so: `allowed`, else 400 or 422."""
        return self.expect_status(*(allowed or (400, 422)))

    @property
    def message(self) -> str:
        """The sentence of an error body, in either style; empty where there is none."""
        try:
            found = self.json().maybe("error", "message").raw
        except Failed:
            return ""
        return found if isinstance(found, str) else ""

    def header(self, name: str) -> str:
        return str(self.headers.get(name, ""))


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str  # empty where there is no `event:` line
    data: str


@dataclass
class EventStream:
    """An SSE body taken apart; comments (keep-alives) are kept beside the events."""

    raw: bytes
    events: list[Event] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    unfinished: str = ""  # what stood after the last blank line

    @classmethod
    def read(cls, raw: bytes) -> EventStream:
        stream = cls(raw)
        text = raw.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
        *blocks, stream.unfinished = text.split("\n\n")
        for block in blocks:
            stream._take(block.strip("\n"))
        return stream

    def _take(self, block: str) -> None:
        name, data = "", []
        for line in block.split("\n"):
            label, _, value = line.partition(":")
            if line.startswith(":"):
                self.comments.append(value.strip())
            elif label == "event":
                name = value.strip()
            elif label == "data":
                data.append(value.removeprefix(" "))
        if data:
            self.events.append(Event(name, "\n".join(data)))

    @property
    def payloads(self) -> list[Value]:
        """The JSON of every event but `[DONE]`.  Raises: Failed."""
        found = []
        for number, event in enumerate(self.events):
            if event.data == "[DONE]":
                continue
            try:
                found.append(Value(json.loads(event.data), f"event {number}"))
            except (ValueError, RecursionError):
                raise Failed(f"expected JSON in event {number}; got {shown(event.data)}") from None
        return found


class Client:
    """Requests against one server, with `key` where a request brings no headers of its own.

    A context manager: leaving it closes the connections.
    """

    def __init__(self, base: str, key: str | None = None) -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadConfig(f"{base!r} is not an address; write it as http://127.0.0.1:8000")
        self.base = base.rstrip("/").removesuffix("/v1")
        self.key = key
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self._https = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._https else 80)
        self._prefix = urlsplit(self.base).path
        # Reading the machine's certificates takes a while and http needs none.
        self._http = httpx2.Client(
            timeout=httpx2.Timeout(SILENCE_SECONDS, connect=10.0),
            verify=self._https,
            follow_redirects=False,
            headers={"accept-encoding": "identity", "user-agent": "tribody-conformance"},
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=16),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        payload: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        data: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request: `payload` as JSON, or `content` as it is, or a form of `files`, `data`.

        `headers` replace the client's own.  Raises: httpx2.HTTPError.
        """
        sent = dict(self.headers if headers is None else headers)
        if payload is not None:
            content = json.dumps(payload, ensure_ascii=False).encode()
        if content is not None and not any(name.lower() == "content-type" for name in sent):
            sent["content-type"] = "application/json"
        request = self._http.build_request(
            method, self.base + path, content=content, headers=sent, files=files, data=data
        )
        try:
            return self._answer(request, f"{method} {path}")
        except (httpx2.NetworkError, httpx2.RemoteProtocolError):
            # A kept connection may have been closed since; a new one settles whose fault it was.
            return self._answer(request, f"{method} {path}")

    def _answer(self, request: httpx2.Request, what: str) -> Answer:
        answer = self._http.send(request, stream=True)
        try:
            body = bytearray()
            for piece in answer.iter_raw():
                body += piece
                limit = f"an answer of at most {MAX_ANSWER_BYTES} bytes from {what}"
                expect(len(body) <= MAX_ANSWER_BYTES, limit, "more")
        finally:
            answer.close()
        return Answer(answer.status_code, answer.headers, bytes(body), what)

    def hang_up(self, path: str, payload: object) -> None:
        """Start a streamed answer and close the connection after its first bytes."""
        content = json.dumps(payload).encode()
        sent = {**self.headers, "content-type": "application/json"}
        with httpx2.Client(timeout=SILENCE_SECONDS, verify=self._https) as alone:
            request = alone.build_request("POST", self.base + path, content=content, headers=sent)
            answer = alone.send(request, stream=True)
            next(answer.iter_raw(), b"")
            answer.close()

    def raw(self, request: bytes) -> bytes:
        """Send bytes, return what comes back until the server closes or is silent.  Never raises
        for a connection that was cut: what had arrived is the answer."""
        received = bytearray()
        try:
            with socket.create_connection((self._host, self._port), timeout=RAW_SECONDS) as plain:
                if self._https:
                    context = ssl.create_default_context()
                    with context.wrap_socket(plain, server_hostname=self._host) as safe:
                        _exchange(safe, request, received)
                else:
                    _exchange(plain, request, received)
        except OSError:
            pass
        return bytes(received)

    def raw_head(self, method: str, path: str, *lines: str, auth: bool = True) -> bytes:
        """The head of a raw request to `path`, with Host, the key, and `lines`."""
        head = [f"{method} {self._prefix}{path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        if auth:
            head += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join([*head, *lines]) + "\r\n\r\n").encode("latin-1")


def _exchange(connection: socket.socket, request: bytes, received: bytearray) -> None:
    """Send, then read until the end of the first answers: a silence ends it too."""
    connection.sendall(request)
    while len(received) < MAX_ANSWER_BYTES:
        piece = connection.recv(65536)
        if not piece:
            return
        received += piece
        if _complete(received):
            connection.settimeout(0.3)  # a second answer, of a pipelined request, may follow


def _complete(received: bytearray) -> bool:
    """Whether an answer with a stated length is all there."""
    head, separator, body = bytes(received).partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n") if separator else ():
        if line.startswith(b"content-length:"):
            length = line.partition(b":")[2].strip()
            return length.isdigit() and len(body) >= int(length)
    return received.endswith(b"0\r\n\r\n")


def raw_status(received: bytes) -> int:
    """The status of a raw answer; 0 where there is none."""
    words = received.split(b"\r\n", 1)[0].split()
    is_status = len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1].isdigit()
    return int(words[1]) if is_status else 0
