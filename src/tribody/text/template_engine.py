"""One compiled chat template: the variables of a conversation in, the prompt text out.

A chat template is a program that came with the model.  minijinja runs it with fuel, so that loops
end, and what it sees here are private copies of plain data whose methods cannot change them: there
is no way from a template to Python objects, files or other templates.

Fuel does not bound memory, nor the time of one built-in such as `sort`, and minijinja itself can
overflow its stack on a hostile template.  So templates that come with a model run in a process of
their own (`template_process`); only tribody's own run in the server's.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Literal

from minijinja import Environment, TemplateError

from tribody.text.binding import is_binding_error

FUEL = 500_000
# Instructions of one rendering.  A template in Qwen3's style needs 63 for a message, the others
# 20 to 50, so this is enough for 8,000 messages; an endless loop is stopped after about 12 ms
# (2-core x86-64 virtual machine).

MAX_SOURCE_CHARACTERS = 256 * 1024
# The longest template in use is about 20,000 characters.

_MAX_ERROR_CHARACTERS = 300

# transformers marks the assistant's text with these tags for training; they render nothing.
_GENERATION_TAG = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")

_PYTHON_ERRORS = (
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
)
# What the methods of lists and dictionaries, `tojson` and `strftime` raise when a template misuses
# them; minijinja passes these on as they are.

FailureKind = Literal["syntax", "raised", "fuel", "template", "limit"]


class TemplateFailed(Exception):
    """A template could not be compiled or rendered; `kind` says whose doing it is."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message[:_MAX_ERROR_CHARACTERS])
        self.kind = kind


class _Raised(Exception):
    """`raise_exception` was called by the template."""


class _FrozenList(list[object]):
    """A list whose changing methods are gone, as in jinja2's immutable sandbox."""

    append = clear = extend = insert = pop = remove = reverse = sort = None  # type: ignore[assignment]


class _FrozenDict(dict[str, object]):
    """A dictionary whose changing methods are gone."""

    clear = pop = popitem = setdefault = update = None  # type: ignore[assignment]


class TemplateEngine:
    """A compiled template.

    Raises: TemplateFailed("syntax") if the source cannot be compiled.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise TemplateFailed(
                "syntax",
                f"it has {len(source)} characters; the limit is {MAX_SOURCE_CHARACTERS}",
            )
        self._environment = _environment()
        try:
            self._environment.add_template("chat", _GENERATION_TAG.sub(r"{#\1 \2#}", source))
        except TemplateError as error:
            raise TemplateFailed("syntax", f"line {error.line}: {error.detail}") from None

    def render(self, variables: dict[str, object], now: datetime) -> str:
        """The rendered prompt; `now` is what `strftime_now` tells.

        Raises: TemplateFailed.
        """
        context = {name: _freeze(value) for name, value in variables.items()}
        context["strftime_now"] = now.strftime
        try:
            return self._environment.render_template("chat", **context)
        except TemplateError as error:
            if error.kind == "OutOfFuel":
                raise TemplateFailed("fuel", f"more than {FUEL} instructions") from None
            where = f"line {error.line}: {error.kind}"
            raise TemplateFailed("template", f"{where} {error.detail or ''}".strip()) from None
        except _Raised as error:
            raise TemplateFailed("raised", str(error)) from None
        except _PYTHON_ERRORS as error:
            # Only the kind: the text of a ValueError may quote the messages.
            raise TemplateFailed("template", f"Python's {type(error).__name__}") from None
        except BaseException as error:
            if not is_binding_error(error):
                raise
            raise TemplateFailed("template", str(error)) from None


def _environment() -> Environment:
    """jinja2 as transformers sets it up: blocks trimmed, nothing escaped, its extra functions."""
    environment = Environment(
        fuel=FUEL,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined_behavior="lenient",
        auto_escape_callback=lambda _name: None,
        debug=False,  # otherwise error messages quote the messages
    )
    environment.add_filter("tojson", _to_json)
    environment.add_global("raise_exception", _raise_exception)
    environment.remove_global("debug")
    return environment


def _freeze(value: object) -> object:
    """A private copy of JSON-like data."""
    if isinstance(value, dict):
        return _FrozenDict((str(key), _freeze(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return _FrozenList(_freeze(item) for item in value)
    return value


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The `tojson` filter as transformers defines it: plain JSON, nothing escaped for HTML."""
    if separators is not None:
        separators = (separators[0], separators[1])
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> None:
    raise _Raised(str(message))
