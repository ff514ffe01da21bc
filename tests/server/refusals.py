"""What the schemathesis hooks of both APIs have in common."""

from __future__ import annotations

import re

import schemathesis


def check_reason(
    response: schemathesis.Response, case: schemathesis.Case, reasons: re.Pattern[str]
) -> None:
    """A 400 to a valid request gives one of the reasons."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if response.status_code == 400:
        message = response.json()["error"]["message"]
        assert reasons.search(message), f"a valid request was refused: {message}"


def respelled(value: object) -> object:
    """JSON Schema takes 10.0 for an integer; here whole numbers are written as such."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: respelled(item) for name, item in value.items()}
        case list():
            return [respelled(item) for item in value]
        case _:
            return value
