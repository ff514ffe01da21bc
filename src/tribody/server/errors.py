"""Errors as clients expect them: one JSON object, one status, nothing about ourselves.

Three shapes: DeepSeek's and OpenAI's, which differ in a few statuses and codes (a server or a key
chooses), and Anthropic's on its own paths.

Bodies never hold a traceback, a path or an address: texts of BadRequest and Overloaded are written
for callers and pass through, everything else is replaced by a fixed sentence and logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from tribody.core.api_settings import Style
from tribody.core.errors import (
    BadInput,
    BadRequest,
    BadValue,
    EngineFailed,
    Overloaded,
    StorageFailed,
    TribodyError,
)
from tribody.tenancy.rates import RateLimited

RETRY_AFTER_SECONDS = 1
# A queue that is full or an engine that restarts has usually moved on after a second.

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "unknown_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    500: "server_error",
    503: "server_error",
}


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


class AnthropicDetail(msgspec.Struct, frozen=True):
    type: str
    message: str


class AnthropicError(msgspec.Struct, frozen=True):
    error: AnthropicDetail
    request_id: str
    type: str = "error"


Refusal = Literal[
    "missing", "malformed", "unknown", "revoked", "expired", "paused", "scope", "admin"
]  # "admin": whatever is not let in there


class Unauthorized(BadRequest):
    """No key, or not one of ours.  `reason`: why, for metrics; the caller is not told."""

    def __init__(self, message: str, reason: Refusal) -> None:
        super().__init__(message, status=401, code="invalid_api_key")
        self.reason = reason


class Forbidden(BadRequest):
    """The caller is known, and may not do this: not now, or not at all."""

    def __init__(self, message: str, reason: Refusal = "scope") -> None:
        super().__init__(message, status=403, code="permission_denied")
        self.reason = reason


class NoRoute(BadRequest):
    """The path or its method is none of ours."""

    def __init__(self, message: str, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(message, status=status)
        self.headers = headers


class TooManyRequests(Overloaded):
    """The caller has as many requests under way, or has used as much, as it may."""

    def __init__(self, message: str, retry_after: int = RETRY_AFTER_SECONDS) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NeverStarted(Overloaded):
    """The request has waited too long for its first step."""


class Draining(Overloaded):
    """The server is shutting down and takes no new work."""


class GenerationFailed(EngineFailed):
    """The engine lives, but this request could not be computed."""


@dataclass(frozen=True)
class HttpError:
    """One answer: status, body and extra headers."""

    status: int
    detail: ErrorDetail
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        return msgspec.json.encode(ErrorBody(self.detail))

    def anthropic_body(self, request_id: str) -> bytes:
        kind = ANTHROPIC_TYPES.get(self.status, "invalid_request_error")
        detail = AnthropicDetail(kind, self.detail.message)
        return msgspec.json.encode(AnthropicError(detail, request_id))


def http_error(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> HttpError:
    """Build the answer for one status, with Retry-After or WWW-Authenticate where they belong."""
    headers: tuple[tuple[str, str], ...] = ()
    if status in (429, 503):
        headers = _retry_after(RETRY_AFTER_SECONDS)
    elif status == 401:
        headers = (("www-authenticate", "Bearer"),)
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return HttpError(status, ErrorDetail(message, kind, param, code), headers)


def _retry_after(seconds: int) -> tuple[tuple[str, str], ...]:
    return (("retry-after", str(seconds)),)


def _rate_limited(exception: Exception, seconds: int | None) -> HttpError:
    """`seconds`: until the request may be sent again; None: never as it is."""
    answer = http_error(429, str(exception), code="rate_limit_exceeded")
    return replace(answer, headers=() if seconds is None else _retry_after(seconds))


def error_for(exception: BaseException, style: Style = "openai") -> HttpError:
    """Map an exception to the answer its caller gets."""
    answer = _openai(exception)
    if style == "openai":
        return answer
    detail, status = answer.detail, answer.status
    if detail.code == "model_not_found":
        status = 400
        detail = msgspec.structs.replace(detail, message=f"Model Not Exist. {detail.message}")
    elif isinstance(exception, BadValue):
        status = 422
    if status < 500:
        detail = msgspec.structs.replace(detail, code="invalid_request_error")
    return HttpError(status, detail, answer.headers)


def _openai(exception: BaseException) -> HttpError:
    match exception:
        case NoRoute():
            return replace(http_error(exception.status, str(exception)), headers=exception.headers)
        case BadValue():
            return http_error(400, str(exception), param=exception.param, code=exception.code)
        case BadRequest():
            return http_error(
                exception.status, str(exception), param=exception.param, code=exception.code
            )
        case RateLimited():
            return _rate_limited(exception, exception.refusal.retry_after)
        case TooManyRequests():
            return _rate_limited(exception, exception.retry_after)
        case Draining():
            return http_error(503, str(exception), code="shutting_down")
        case Overloaded():
            return http_error(503, str(exception), code="overloaded")
        case GenerationFailed():
            return http_error(500, "This answer could not be computed.", code="engine_error")
        case EngineFailed():
            return http_error(
                503,
                "The engine could not finish this request; please try again.",
                code="engine_failed",
            )
        case StorageFailed():
            return http_error(
                503,
                "The server cannot keep its books at the moment; please try again.",
                code="storage_failed",
            )
        case BadInput():
            return http_error(400, "The request cannot be served as it stands.")
        case TribodyError() | _:
            return http_error(
                500, "The server made a mistake; it has been logged.", code="internal"
            )


PARAM_IN_MESSAGE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
MISSING_FIELD = re.compile(r"^Object missing required field `(?P<name>[^`]+)`")
UNKNOWN_FIELD = re.compile(r"^Object contains unknown field `(?P<name>[^`]*)`")


def bad_json(exception: Exception) -> BadRequest:
    """Turn what msgspec raises for a body into a BadRequest that names the parameter."""
    match exception:
        case msgspec.ValidationError():
            return _bad_field(str(exception))
        case RecursionError():
            return BadRequest("The JSON body is nested too deeply.", code="invalid_json")
        case UnicodeDecodeError():
            return BadRequest("The request body is not valid UTF-8.", code="invalid_json")
        case _:
            return BadRequest(
                f"The request body is not valid JSON: {exception}", code="invalid_json"
            )


def _bad_field(text: str) -> BadRequest:
    found = PARAM_IN_MESSAGE.search(text)
    path = found["path"] if found else ""
    reason = text[: found.start()] if found else text
    missing = MISSING_FIELD.match(reason)
    if missing:
        path = f"{path}.{missing['name']}" if path else missing["name"]
        return BadRequest(f"Missing required parameter: '{path}'.", param=path)
    if unknown := UNKNOWN_FIELD.match(reason):
        name = unknown["name"][:MAX_NAME_SHOWN]
        path = f"{path}.{name}" if path else name
        return BadRequest(f"Unknown parameter: '{path}'.", param=path)
    if not path:
        return BadRequest(f"The JSON body must be an object: {reason}.", code="invalid_json")
    return BadValue(f"Invalid type for '{path}': {reason}.", param=path)


MAX_NAME_SHOWN = 64  # characters of a name that the caller made up

Words = Sequence[tuple[re.Pattern[str], str]]
MESSAGE_PLACE = re.compile(r"\bmessages\[([0-9]{1,5})\]")


def reworded(text: str, words: Words) -> str:
    """`text` with another surface's words for the chat's, in their order."""
    for word, own in words:
        text = word.sub(own, text)
    return text


@contextmanager
def own_words(words: Words, places: Sequence[str]) -> Iterator[None]:
    """Let errors of the chat within name parameters as another surface has them.

    `places`: where each message of the chat came from.
    """

    def placed(text: str) -> str:
        return MESSAGE_PLACE.sub(lambda found: places[int(found[1])], reworded(text, words))

    try:
        yield
    except BadRequest as error:
        error.args = (placed(str(error)),)
        error.param = None if error.param is None else placed(error.param)
        raise
