"""The words that `chat`'s two sources of answers share, and what `generate` shares with them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tribody.core.errors import BadRequest
from tribody.server.rendering import Section
from tribody.server.types import ThinkingSwitch

Message = dict[str, str]  # {"role": …, "content": …}, as the API has it
FieldValue = float | int | ThinkingSwitch
Fields = dict[str, FieldValue]  # of the API, by their names


@dataclass(frozen=True)
class Text:
    """A piece of an answer."""

    section: Section
    text: str


def given_fields(
    *,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    thinking: bool | None,
) -> Fields:
    """The options of one command as API fields, without those that were not given."""
    fields: Fields = {}
    if temperature is not None:
        fields["temperature"] = temperature
    if max_tokens is not None:
        fields["max_tokens"] = max_tokens
    if seed is not None:
        fields["seed"] = seed
    if thinking is not None:
        fields["thinking"] = ThinkingSwitch("enabled" if thinking else "disabled")
    return fields


def refuse_ignored(ignored: Collection[str]) -> None:
    """The API names a thinking field that had no effect in a header; here it is an error.

    Raises: BadRequest.
    """
    for name in ("thinking", "chat_template_kwargs"):
        if name in ignored:
            raise BadRequest(
                "this model's chat template has no switch for thinking; leave it out",
                param=name,
            )
