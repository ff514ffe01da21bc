"""What a chat request says about thinking first, in either of the two spellings in use.

    "thinking": {"type": "enabled"}                      DeepSeek's field
    "chat_template_kwargs": {"thinking": true}           vLLM's field, with DeepSeek's word
    "chat_template_kwargs": {"enable_thinking": true}    or with Qwen's

They may be given together where they agree.  `chat_template_kwargs` holds nothing else here: its
values would become variables of a program that came with the model.
"""

from __future__ import annotations

from tribody.core.errors import BadRequest
from tribody.server.types import ChatRequest
from tribody.text.chat_template import THINKING_VARIABLES

TYPES = {"enabled": True, "disabled": False}


def asked(fields: ChatRequest) -> tuple[bool | None, list[str]]:
    """True or False if the request chooses, else None; and the fields that chose.

    Raises: BadRequest on a value or variable that is not allowed, and on a contradiction.
    """
    wishes: dict[str, bool] = {}
    if fields.thinking is not None:
        if fields.thinking.type not in TYPES:
            raise BadRequest(
                f"thinking.type {fields.thinking.type[:32]!r} is not one of {', '.join(TYPES)}.",
                param="thinking.type",
            )
        wishes["thinking"] = TYPES[fields.thinking.type]
    for name, value in (fields.chat_template_kwargs or {}).items():
        param = f"chat_template_kwargs.{name[:80]}"
        if name not in THINKING_VARIABLES:
            raise BadRequest(
                f"{param} is not allowed; allowed are {', '.join(THINKING_VARIABLES)}.",
                param="chat_template_kwargs",
            )
        if isinstance(value, bool):
            wishes[param] = value
        elif value is not None:
            raise BadRequest(f"{param} must be true or false.", param=param)
    if len(set(wishes.values())) > 1:
        raise BadRequest(
            f"{' and '.join(wishes)} contradict each other; give one of them.", param="thinking"
        )
    names = dict.fromkeys(name.partition(".")[0] for name in wishes)
    return next(iter(wishes.values()), None), list(names)
