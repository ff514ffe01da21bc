"""More names for a model, as an operator states them; nothing here needs a model to be loaded."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,95}")

THINKING_BY_NAME = {"deepseek-reasoner": True, "deepseek-chat": False}
# At DeepSeek the name chose the mode, so clients that use these names rely on it.

DEEPSEEK_NAMES = (*THINKING_BY_NAME, "deepseek-flash", "deepseek-v4-flash", "deepseek-v4-pro")
# What DeepSeek's clients of all years ask for: a model of ours that is served alone answers.

ANTHROPIC_NAMES = (
    ("claude-opus", ("deepseek-v4-pro", "deepseek-chat")),
    ("claude", ("deepseek-flash", "deepseek-v4-flash", "deepseek-chat")),
)
# What answers to Anthropic's own models at DeepSeek: the first beginning that fits, and of its
# names the first that is served.  In V3's days it was deepseek-chat for all.


def anthropic_name(name: str, served: Container[str]) -> str:
    """The served name that answers to `name` on Anthropic's surface; `name` itself where none is
    meant for it, or where the operator serves it."""
    if name in served:
        return name
    for beginning, names in ANTHROPIC_NAMES:
        if name.startswith(beginning):
            return next((known for known in names if known in served), name)
    return name


@dataclass(frozen=True)
class Alias:
    """What the operator says of a name: the model, and the mode if he says one."""

    target: str
    thinking: bool | None = None
