"""How a check ends early: a sentence that says expected and got, or why it does not apply."""

from __future__ import annotations

MAX_SHOWN_CHARACTERS = 200


class Failed(Exception):
    """The server does not do what the contract says."""


class Skipped(Exception):
    """This check does not apply to this server, or its model would not do as it was told."""


def shown(value: object) -> str:
    """`value` for a sentence: one line, bounded."""
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\r", "\\r").replace("\n", "\\n")
    if len(text) > MAX_SHOWN_CHARACTERS:
        text = f"{text[:MAX_SHOWN_CHARACTERS]}… ({len(text)} characters)"
    return text


def expect(condition: object, expected: str, got: object) -> None:
    """Raises: Failed unless `condition` holds."""
    if not condition:
        raise Failed(f"expected {expected}; got {shown(got)}")


def expect_equal(got: object, expected: object, what: str) -> None:
    expect(got == expected, f"{what} to be {shown(repr(expected))}", repr(got))
