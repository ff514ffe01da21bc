"""Why the admin API may refuse `st run` although it keeps to the schema."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

from tests.server.refusals import check_reason, respelled

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
    case.body = respelled(case.body)


@schemathesis.check
def a_reason_that_no_schema_can_say(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A 400 to a valid request gives one of REASONS."""
    check_reason(response, case, REASONS)
