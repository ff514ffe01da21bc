"""Every error that tribody raises on purpose.

TribodyError
├── BadInput                the caller can mend it: the message says value, limit and remedy
│   ├── BadRequest          one API request (carries the HTTP status, the parameter and a code)
│   │   └── BadValue        a parameter of the wrong type or out of its range
│   ├── BadConfig           an option, an environment variable or a configuration file
│   │   ├── BadTariff       a price list, or the calendar that it names
│   │   └── NoPrice         the price list says nothing about a request
│   ├── BadModel            a checkpoint, a config.json, a GGUF or a tokenizer that cannot be used
│   └── DownloadFailed      a model name that could not be fetched
├── Overloaded              no room now; try again later (HTTP 503 or 429)
├── EngineFailed            the engine process died, hung or could not start
└── StorageFailed           the database could not be read or written

`ShapeError` stands apart: it is a `ValueError` raised by the operators when one of *our* layers
passes arrays that do not fit.  A user never reaches it.
"""

from __future__ import annotations


class TribodyError(Exception):
    """The root: catch it to catch everything that tribody raises on purpose."""


class BadInput(TribodyError):
    """The caller's input is wrong and the caller can mend it."""


class BadRequest(BadInput):
    """One API request cannot be served as it stands."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        code: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.param = param
        self.status = status
        self.code = code


class BadValue(BadRequest):
    """A parameter has a wrong type or lies outside its range: 422 at DeepSeek, 400 at OpenAI."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, status=422)


class BadConfig(BadInput):
    """An option, environment variable or configuration file has a value that cannot be used."""


class BadTariff(BadConfig):
    """A price list, or a calendar that it names, is malformed or contradicts itself."""


class NoPrice(BadConfig):
    """The price list has no price for a request; it is refused, never served for nothing."""


class BadModel(BadInput):
    """A model file or folder is malformed, unsafe or not supported."""


class DownloadFailed(BadInput):
    """A model name could not be resolved or its files could not be fetched."""


class Overloaded(TribodyError):
    """There is no room for this request now; it may succeed later."""


class EngineFailed(TribodyError):
    """The engine process died, hung or could not start."""


class StorageFailed(TribodyError):
    """The database could not be read or written; what was to be written is not there."""


class ShapeError(ValueError):
    """An operator was called with arrays whose shapes, dtypes or strides do not fit."""
