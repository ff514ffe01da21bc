"""More names for a model, as an operator states them; nothing here needs a model to be loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,95}")

THINKING_BY_NAME = {"deepseek-reasoner": True, "deepseek-chat": False}
# At DeepSeek the name chose the mode, so clients that use these names rely on it.


@dataclass(frozen=True)
class Alias:
    """What the operator says of a name: the model, and the mode if he says one."""

    target: str
    thinking: bool | None = None
