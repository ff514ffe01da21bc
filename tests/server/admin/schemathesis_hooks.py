"""Why the admin API may refuse `st run` although it keeps to the schema."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

# Why a request that keeps to its schema may still be a 400: what schemas cannot say.
REASONS = re.compile(
    "|".join(
        [
            r"leave out line breaks and whatever else is not printable",
            r"^Api is ",  # options in a text of their own
            r" is 0 or beyond the limit of ",
            r"it has to be above 0",
            r" is above the limit of ",
            r"which is not after now",
            r"is revoked, which is for ever",
            r"^group_by .* must be names of",
            r"is before from_ms",
            r"^Price list\b",
            r"^Not TOML: ",
            r" holds a null character",
        ]
    ),
    re.DOTALL,
)


@schemathesis.hook
def before_call(ctx: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:
    """JSON Schema takes 10.0 for an integer; here whole numbers are written as such."""
    case.body = _respelled(case.body)


@schemathesis.check
def a_reason_that_no_schema_can_say(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A 400 to a valid request gives one of REASONS."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if response.status_code == 400:
        message = response.json()["error"]["message"]
        assert REASONS.search(message), f"a valid request was refused: {message}"


def _respelled(value: object) -> object:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _respelled(item) for name, item in value.items()}
        case list():
            return [_respelled(item) for item in value]
        case _:
            return value
