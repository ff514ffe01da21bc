"""What a chat template does with tools, found by rendering a conversation that has some.

A template is a program; reading its text would be guessing.  Rendered, calls are there for the
format's own parser to find, and tools and results by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tribody.core.errors import BadRequest
from tribody.text.tool_calls import CallArguments, CallStart, ToolEvent
from tribody.text.tool_formats.formats import MARKERS, ToolFormat, tool_parser
from tribody.text.tool_formats.special_token_calls import SEPARATOR
from tribody.text.tool_formats.written import Tool, arguments_object
from tribody.text.tool_messages import Message, ToolUse, prepared

Render = Callable[[Sequence[Message], Sequence[Tool] | None], str]

_FORMATS: tuple[ToolFormat, ...] = (
    "deepseek_v3",
    "deepseek_v3_1",
    "deepseek_v3_2",
    "deepseek_v4",
    "hermes",
)

_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
    },
}
_ASKED: Message = {"role": "user", "content": "probe question"}
_CALLS = [("probe_one", '{"a": "x"}'), ("probe_two", "{}"), ("probe_three", '{"b": "y"}')]


def _call(index: int) -> dict[str, object]:
    name, arguments = _CALLS[index]
    function = {"name": name, "arguments": arguments}
    return {"type": "function", "id": f"probe000{index}", "function": function}


def _result(index: int) -> Message:
    return {"role": "tool", "tool_call_id": f"probe000{index}", "content": f"probe result {index}"}


# Two rounds, and a call after content: some published templates write only the first.
_CONVERSATION: list[Message] = [
    _ASKED,
    {"role": "assistant", "content": "", "tool_calls": [_call(0), _call(1)]},
    _result(0),
    _result(1),
    {"role": "assistant", "content": "probe answer"},
    _ASKED,
    {"role": "assistant", "content": "probe words", "tool_calls": [_call(2)]},
    _result(2),
]


def probed(render: Render, knows_token: Callable[[str], bool]) -> ToolUse:
    """What this template does.  `render` raises BadRequest where the template refuses.

    A format of special tokens is only believed where the vocabulary knows them.
    """
    for tool_format in _FORMATS:
        if tool_format != "hermes" and not knows_token(MARKERS[tool_format][0]):
            continue
        for wants_objects in (False, True):
            use = ToolUse(tool_format, writes_calls=True, wants_objects=wants_objects)
            if _writes_calls(render, use):
                return ToolUse(
                    tool_format,
                    writes_tools=_writes_tools(render),
                    writes_calls=True,
                    wants_objects=wants_objects,
                    has_system=_has_system(render),
                )
    return ToolUse(has_system=_has_system(render))


def _writes_calls(render: Render, use: ToolUse) -> bool:
    messages, _tools = prepared(_CONVERSATION, None, use)
    text = _text(render, messages, None)
    if not all(f"probe result {i}" in text for i in range(len(_CALLS))):
        return False
    if use.tool_format == "deepseek_v3" and f"function{SEPARATOR}" not in text:
        return False  # it is V3.1's form, which is asked for next; one parser reads both
    parser = tool_parser(use.tool_format)
    events = parser.push(text) + parser.finish()
    third = (
        events.index(CallStart(2, "probe_three")) if CallStart(2, "probe_three") in events else 0
    )
    before = events[third - 1]
    if not (third and isinstance(before, str) and "probe words" in before):
        return False  # content that comes with a call stands before it
    found = _calls(events)
    wanted = [(name, arguments_object(arguments)) for name, arguments in _CALLS]
    return [(name, arguments_object(arguments)) for name, arguments in found] == wanted


def _calls(events: list[str | ToolEvent]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, CallStart):
            calls.append((event.name, ""))
        elif isinstance(event, CallArguments):
            name, before = calls[-1]
            calls[-1] = (name, before + event.text)
    return calls


def _writes_tools(render: Render) -> bool:
    return all(name in _text(render, [_ASKED], [_TOOL]) for name in ("probe_tool", "probe_key"))


def _has_system(render: Render) -> bool:
    return "probe system" in _text(render, [{"role": "system", "content": "probe system"}, _ASKED])


def _text(render: Render, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> str:
    try:
        return render(messages, tools)
    except BadRequest:
        return ""
