"""The words that `chat`'s two sources of answers share."""

from __future__ import annotations

from dataclasses import dataclass

from tribody.server.rendering import Section

Message = dict[str, str]  # {"role": …, "content": …}, as the API has it
Sampling = dict[str, float | int]  # API fields by their names


@dataclass(frozen=True)
class Text:
    """A piece of an answer."""

    section: Section
    text: str
