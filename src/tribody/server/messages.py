"""The messages of a chat request, checked and brought into the form that chat templates expect.

That form is OpenAI's, as plain data; text parts are joined.  Who keeps earlier reasoning is the
prompt format's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tribody.core.errors import BadRequest, BadValue
from tribody.server import limits
from tribody.server.types import ChatMessage

ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name for it
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, object]]:
    """Raises: BadRequest that names the message and what is wrong with it."""
    if not messages:
        raise BadRequest("messages must hold at least one message.", param="messages")
    limits.check_count("messages", len(messages), limits.MAX_MESSAGES, "messages")
    result = [_template_message(f"messages[{i}]", m) for i, m in enumerate(messages)]
    _check_results(messages)
    for i, message in enumerate(messages):
        if message.prefix and (i + 1 < len(messages) or message.role != "assistant"):
            raise BadRequest(
                "prefix: true belongs to the last message, which must be an assistant's.",
                param=f"messages[{i}].prefix",
            )
    return result


def _check_results(messages: Sequence[ChatMessage]) -> None:
    """Every call is answered by the tool messages right after it, and these answer nothing else."""
    open_calls: set[str] = set()
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if message.role == "tool":
            if message.tool_call_id not in open_calls:
                raise BadRequest(
                    f"{where}: messages with role 'tool' must be a response to a preceding message "
                    "with 'tool_calls', each to a call of its own.",
                    param=f"{where}.tool_call_id",
                )
            open_calls.discard(message.tool_call_id)
            continue
        if open_calls:
            raise BadRequest(
                f"{where}: an assistant message with 'tool_calls' must be followed by tool "
                f"messages responding to each 'tool_call_id'; {len(open_calls)} did not have one.",
                param=where,
            )
        open_calls = {call.id for call in message.tool_calls or ()}
    if open_calls:
        raise BadRequest(
            "The last message calls tools; send their results after it.",
            param=f"messages[{len(messages) - 1}].tool_calls",
        )


def _template_message(where: str, message: ChatMessage) -> dict[str, object]:
    role = ROLES.get(message.role)
    if role is None:
        raise BadValue(
            f"{where}.role {message.role[:32]!r} is not one of {', '.join(ROLES)}.",
            param=f"{where}.role",
        )
    if message.content is None and not (role == "assistant" and message.tool_calls):
        needed = "content or tool_calls" if role == "assistant" else "content"
        raise BadRequest(f"{where}: {needed} must be set.", param=f"{where}.content")
    if role == "tool" and message.tool_call_id is None:
        raise BadRequest(
            f"{where}: a tool message needs tool_call_id.", param=f"{where}.tool_call_id"
        )
    result: dict[str, object] = {"role": role, "content": _message_text(where, message)}
    for name in ("name", "tool_call_id"):
        value = getattr(message, name)
        if value is not None:
            limits.check_count(
                f"{where}.{name}", len(value), limits.MAX_NAME_CHARACTERS, "characters"
            )
            result[name] = value
    if role == "assistant":
        if message.tool_calls:
            if len(message.tool_calls) > limits.MAX_TOOL_CALLS:
                # No BadValue: other surfaces spread a message's calls over items, without a bound.
                raise BadRequest(
                    f"{where} makes {len(message.tool_calls)} calls; at most "
                    f"{limits.MAX_TOOL_CALLS} are allowed.",
                    param=f"{where}.tool_calls",
                )
            result["tool_calls"] = msgspec.to_builtins(message.tool_calls)
        if message.reasoning_content is not None:
            result["reasoning_content"] = message.reasoning_content
        if message.prefix:
            result["prefix"] = True
    return result


def _message_text(where: str, message: ChatMessage) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    param = f"{where}.content"
    limits.check_count(param, len(message.content), limits.MAX_PARTS, "parts")
    for i, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            raise BadValue(
                f"{param}[{i}]: only parts of type 'text' are supported, "
                f"not {part.type[:32]!r} without text.",
                param=f"{param}[{i}]",
            )
    return "".join(part.text or "" for part in message.content)
