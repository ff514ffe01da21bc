"""Conversations with tools, made into what a chat template can render.

A template is told by `ToolUse` what it can do itself.  The rest is written into the messages: the
tools into the system message, calls into the assistant's content, and results into a user's turn.

Messages come in OpenAI's shape: `tool_calls[].function.arguments` is the text of a JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tribody.text.tool_formats.formats import ToolFormat
from tribody.text.tool_formats.written import (
    Call,
    Tool,
    arguments_object,
    instructions,
    written_calls,
)

Message = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The format of a model's calls, and which parts of it the model's template writes itself."""

    tool_format: ToolFormat = "hermes"
    writes_tools: bool = False  # into the system message, from the variable `tools`
    writes_calls: bool = False  # from `tool_calls`, and results from messages of the role tool
    wants_objects: bool = False  # arguments as objects, not as text
    has_system: bool = True  # it renders system messages


def concerns_tools(messages: Sequence[Message]) -> bool:
    """True if a message calls a tool or brings its result."""
    return any(message.get("role") == "tool" or message.get("tool_calls") for message in messages)


def prepared(
    messages: Sequence[Message], tools: Sequence[Tool] | None, use: ToolUse
) -> tuple[list[Message], Sequence[Tool] | None]:
    """The messages to render, and the tools to render them with."""
    prepare = _for_template if use.writes_calls else _as_text
    messages = prepare(messages, use)
    if not tools or use.writes_tools:
        return messages, tools or None
    return _with_instructions(messages, instructions(use.tool_format, tools), use), None


def calls_of(message: Message) -> list[Call]:
    """The calls of an assistant's message."""
    calls = message.get("tool_calls")
    found = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            arguments = function.get("arguments") or "{}"
            if not isinstance(arguments, str):  # some clients send an object
                arguments = json.dumps(arguments, ensure_ascii=False)
            found.append(Call(str(function.get("name")), arguments))
    return found


def _for_template(messages: Sequence[Message], use: ToolUse) -> list[Message]:
    """Calls as the template expects them."""
    result: list[Message] = []
    for message in messages:
        calls = calls_of(message)
        if calls:
            given = [
                {
                    "type": "function",
                    "id": _call_id(message, i),
                    "function": {
                        "name": call.name,
                        "arguments": arguments_object(call.arguments)
                        if use.wants_objects
                        else call.arguments,
                    },
                }
                for i, call in enumerate(calls)
            ]
            message = {**message, "tool_calls": given, "content": message.get("content") or ""}
        result.append(message)
    return result


def _call_id(message: Message, index: int) -> object:
    calls = message["tool_calls"]
    assert isinstance(calls, list)
    return calls[index].get("id", "")


def _as_text(messages: Sequence[Message], use: ToolUse) -> list[Message]:
    """Calls as content, and results that follow each other as one user's turn."""
    result: list[Message] = []
    after_result = False
    for message in messages:
        is_result = message.get("role") == "tool"
        if is_result:
            text = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
            if after_result:
                text = f"{result.pop()['content']}\n{text}"
            message = {"role": "user", "content": text}
        elif calls := calls_of(message):
            content = message.get("content") or ""
            break_ = "\n" if content else ""
            text = f"{content}{break_}{written_calls(use.tool_format, calls)}"
            message = {key: value for key, value in message.items() if key != "tool_calls"}
            message = {**message, "content": text}
        after_result = is_result
        result.append(message)
    return result


def _with_instructions(messages: list[Message], text: str, use: ToolUse) -> list[Message]:
    """The instructions after the first system message's text, or in one of their own.

    Where the template has no system messages, before the first user's text.
    """
    role = "system" if use.has_system else "user"
    for i, message in enumerate(messages):
        content = message.get("content")
        if message.get("role") == role and isinstance(content, str):
            both = (content, text) if use.has_system else (text, content)
            new = {**message, "content": "\n\n".join(part for part in both if part)}
            return [*messages[:i], new, *messages[i + 1 :]]
    return [{"role": role, "content": text}, *messages]
