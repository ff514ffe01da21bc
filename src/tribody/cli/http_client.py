"""A small HTTP client over the standard library: the commands that talk to a running server."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from tribody.cli.answers import refuse_ignored
from tribody.core.errors import BadConfig, BadRequest, EngineFailed
from tribody.server.errors import ErrorBody

SILENCE_SECONDS = 600.0  # a long prompt on a slow machine stays below this


class NoServer(EngineFailed):
    """Nothing answers at this address."""


def base_url(text: str) -> str:
    """`http://host:port`, whatever of /v1 and slashes was typed.  Raises: BadConfig."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BadConfig(f"--url {text!r} is not an address; write it as http://127.0.0.1:8000")
    return text.rstrip("/").removesuffix("/v1")


def get(url: str, key: str | None, seconds: float = 5.0) -> bytes:
    """The body of a GET.  Raises: NoServer, BadRequest."""
    with _open(urllib.request.Request(url, headers=_headers(key)), seconds) as answer:
        return answer.read()


def post_events(url: str, key: str | None, body: bytes) -> Iterator[bytes]:
    """The payloads of a streamed answer, without the last `[DONE]`.

    Raises: NoServer, BadRequest (also for a thinking switch that the server ignores);
    EngineFailed when the stream breaks off.
    """
    headers = {"content-type": "application/json", **_headers(key)}
    request = urllib.request.Request(url, data=body, headers=headers)
    with _open(request, SILENCE_SECONDS) as answer:
        refuse_ignored(answer.headers.get("x-tribody-ignored", "").split(", "))
        try:
            for line in answer:
                payload = line.strip().removeprefix(b"data: ")
                if payload == b"[DONE]":
                    return
                if line.startswith(b"data: "):
                    yield payload
        except (OSError, http.client.HTTPException) as error:
            raise EngineFailed(f"the connection to {url} broke: {error}") from error
    raise EngineFailed(f"{url} ended the answer before it was complete")


def _headers(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def _open(request: urllib.request.Request, seconds: float) -> http.client.HTTPResponse:
    try:
        answer = urllib.request.urlopen(request, timeout=seconds)
    except urllib.error.HTTPError as error:
        raise _refusal(error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise NoServer(f"{request.full_url}: no answer: {reason}") from error
    assert isinstance(answer, http.client.HTTPResponse)
    return answer


def _refusal(error: urllib.error.HTTPError) -> BadRequest | EngineFailed:
    body = error.read(1 << 16)
    try:
        message = msgspec.json.decode(body, type=ErrorBody).error.message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        message = f"HTTP status {error.code}"
    if error.code >= 500:
        return EngineFailed(f"the server says: {message}")
    return BadRequest(f"the server says: {message}", status=error.code)
