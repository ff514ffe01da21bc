"""What a chat request says about thinking first, in any of the spellings in use.

    "thinking": {"type": "enabled"}                      DeepSeek's field
    "reasoning_effort": "none"                           does not think; other efforts say how much
    "chat_template_kwargs": {"thinking": true}           vLLM's field, with DeepSeek's word
    "chat_template_kwargs": {"enable_thinking": true}    or with Qwen's

They may be given together where they agree.  `chat_template_kwargs` holds nothing else here: its
values would become variables of a program that came with the model.
"""

from __future__ import annotations

from tribody.core.errors import BadRequest, BadValue
from tribody.server.types import ChatRequest
from tribody.text.chat_template import THINKING_VARIABLES

TYPES = {"enabled": True, "disabled": False}
EFFORTS = {
    "none": None,
    "minimal": "low",
    "low": "low",
    "medium": "high",
    "high": "high",
    "xhigh": "high",
    "max": "max",
    "ultra": "max",
}
# DeepSeek's efforts, and what it takes OpenAI's for; None: no thinking.


def effort(fields: ChatRequest) -> str | None:
    """How much to think: "low", "high", "max", or None where the request does not say.

    Raises: BadValue on another word.
    """
    given = fields.reasoning_effort
    if given is not None and given not in EFFORTS:
        raise BadValue(
            f"reasoning_effort {given[:32]!r} is not one of {', '.join(EFFORTS)}.",
            param="reasoning_effort",
        )
    return EFFORTS[given] if given is not None else None


def asked(fields: ChatRequest) -> tuple[bool | None, list[str]]:
    """True or False if the request chooses, else None; and the fields that chose.

    Raises: BadRequest on a value or variable that is not allowed, and on a contradiction.
    """
    wishes: dict[str, bool] = {}
    if fields.thinking is not None:
        if fields.thinking.type not in TYPES:
            raise BadValue(
                f"thinking.type {fields.thinking.type[:32]!r} is not one of {', '.join(TYPES)}.",
                param="thinking.type",
            )
        wishes["thinking"] = TYPES[fields.thinking.type]
    if fields.reasoning_effort == "none":
        wishes["reasoning_effort"] = False
    for name, value in (fields.chat_template_kwargs or {}).items():
        param = f"chat_template_kwargs.{name[:80]}"
        if name not in THINKING_VARIABLES:
            raise BadValue(
                f"{param} is not allowed; allowed are {', '.join(THINKING_VARIABLES)}.",
                param="chat_template_kwargs",
            )
        if isinstance(value, bool):
            wishes[param] = value
        elif value is not None:
            raise BadValue(f"{param} must be true or false.", param=param)
    if len(set(wishes.values())) > 1:
        raise BadRequest(
            f"{' and '.join(wishes)} contradict each other; give one of them.", param="thinking"
        )
    names = dict.fromkeys(name.partition(".")[0] for name in wishes)
    return next(iter(wishes.values()), None), list(names)
