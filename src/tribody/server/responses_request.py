"""From the Responses API's form of a request to the chat's.

Nothing is kept between requests, so a conversation comes whole.  Items that an assistant made in
one turn (reasoning, a message, calls) become one message of the chat.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tribody.core.errors import BadRequest, BadValue
from tribody.server import limits
from tribody.server.responses_types import (
    InputItem,
    InputPart,
    ReasoningConfig,
    ResponsesRequest,
    ResponsesTool,
    ResponsesToolChoice,
    TextConfig,
)
from tribody.server.types import (
    ChatMessage,
    ChatRequest,
    FunctionCall,
    FunctionName,
    FunctionTool,
    JsonSchemaFormat,
    NamedTool,
    ResponseFormat,
    Tool,
    ToolCall,
)

WORDS = tuple(
    (re.compile(ours), theirs)
    for ours, theirs in (
        (r"\.function\b", ""),
        (r"\breasoning_content\b", "reasoning"),
        (r"\breasoning_effort\b", "reasoning.effort"),
        (r"\bresponse_format\.json_schema\b", "text.format"),
        (r"\bresponse_format\b", "text.format"),
        (r"\bmax_tokens\b", "max_output_tokens"),
        (r"\btool_call_id\b", "call_id"),
        (r"\buser_id\b", "user"),
        (r"\bmessages\b(?!\[)", "input"),
    )
)
ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning")
MESSAGE_ROLES = {
    "system": "system",
    "developer": "user",  # as DeepSeek has it
    "user": "user",
    "assistant": "assistant",
}
PART_TYPES = ("input_text", "output_text", "text", "refusal", "reasoning_text")
ENCRYPTED = "reasoning.encrypted_content"


@dataclass
class _Turn:
    """What an assistant made in one turn, as it is read."""

    place: str
    thoughts: list[str] = field(default_factory=list)
    text: str | None = None
    calls: list[ToolCall] = field(default_factory=list)


@dataclass
class Conversation:
    """Messages of the chat as they are found, where each came from, and what has no effect."""

    drops_thinking: bool  # the profile takes none back
    messages: list[ChatMessage] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)
    _turn: _Turn | None = None

    def add(self, place: str, message: ChatMessage) -> None:
        self.messages.append(message)
        self.places.append(place)

    def item(self, place: str, item: InputItem) -> None:
        kind = item.type if item.type is not None else "message"
        if kind not in ITEM_TYPES:
            raise BadValue(
                f"{place}.type {kind[:32]!r} is not supported here; allowed are "
                f"{', '.join(ITEM_TYPES)}.",
                param=f"{place}.type",
            )
        if kind == "reasoning":
            self._reasoning(place, item)
        elif kind == "function_call":
            name, call_id = _needed(place, item, "name"), _needed(place, item, "call_id")
            call = FunctionCall(name, _needed(place, item, "arguments"))
            self._turn_at(place).calls.append(ToolCall(call, call_id))
        elif kind == "function_call_output":
            self.end_turn()
            call_id = _needed(place, item, "call_id")
            if item.output is None:
                raise BadRequest(f"{place} needs output.", param=f"{place}.output")
            text = _text(f"{place}.output", item.output)
            self.add(place, ChatMessage("tool", text, tool_call_id=call_id))
        else:
            self._message(place, item)

    def _message(self, place: str, item: InputItem) -> None:
        role = MESSAGE_ROLES.get(item.role or "")
        if role is None:
            raise BadValue(
                f"{place}.role {(item.role or '')[:32]!r} is not one of "
                f"{', '.join(MESSAGE_ROLES)}.",
                param=f"{place}.role",
            )
        if item.content is None:
            raise BadRequest(f"{place} needs content.", param=f"{place}.content")
        text = _text(f"{place}.content", item.content)
        if role == "assistant":
            if self._turn is not None and self._turn.text is not None:
                self.end_turn()
            self._turn_at(place).text = text
            return
        self.end_turn()
        self.add(place, ChatMessage(role, text))

    def _reasoning(self, place: str, item: InputItem) -> None:
        """Its text, or what `encrypted_content` holds of it; new thoughts begin a new turn."""
        text = _text(f"{place}.content", item.content or "")
        if not text and item.encrypted_content:
            try:
                text = base64.b64decode(item.encrypted_content, validate=True).decode()
            except (binascii.Error, ValueError):
                param = f"{place}.encrypted_content"
                raise BadRequest(f"{param} is none of this server's.", param=param) from None
        if self._turn is not None and (self._turn.text is not None or self._turn.calls):
            self.end_turn()
        self._turn_at(place).thoughts.append(text)

    def _turn_at(self, place: str) -> _Turn:
        self._turn = self._turn or _Turn(place)
        return self._turn

    def end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is None:
            return
        thoughts = turn.thoughts
        if thoughts and self.drops_thinking:
            self.ignored["input.reasoning"] = None
            thoughts = []
        message = ChatMessage(
            "assistant",
            turn.text or "",
            tool_calls=turn.calls or None,
            reasoning_content="".join(thoughts) if thoughts else None,
        )
        self.add(turn.place, message)


def _needed(place: str, item: InputItem, name: str) -> str:
    value: str | None = getattr(item, name)
    if value is None:
        raise BadRequest(f"{place} needs {name}.", param=f"{place}.{name}")
    return value


def _text(place: str, content: str | list[InputPart]) -> str:
    if isinstance(content, str):
        return content
    limits.check_count(place, len(content), limits.MAX_PARTS, "parts")
    return "".join(_texts(place, content))


def _texts(place: str, parts: Sequence[InputPart]) -> Iterator[str]:
    for i, part in enumerate(parts):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in PART_TYPES:
            raise BadValue(
                f"{place}[{i}].type {part.type[:32]!r} is not supported here; allowed are "
                f"{', '.join(PART_TYPES)}.",
                param=f"{place}[{i}].type",
            )
        if text is None:
            raise BadRequest(f"{place}[{i}] needs text.", param=f"{place}[{i}].text")
        yield text


def conversation(fields: ResponsesRequest, *, drops_thinking: bool) -> Conversation:
    """Raises: BadRequest that names the item and what is wrong with it."""
    found = Conversation(drops_thinking)
    if fields.instructions is not None:
        found.add("instructions", ChatMessage("system", fields.instructions))
    if isinstance(fields.input, str):
        found.add("input", ChatMessage("user", fields.input))
        return found
    limits.check_count("input", len(fields.input), limits.MAX_MESSAGES, "items")
    if not fields.input:
        raise BadRequest("input must hold at least one item.", param="input")
    for i, item in enumerate(fields.input):
        found.item(f"input[{i}]", item)
    found.end_turn()
    return found


def chat_request(fields: ResponsesRequest, found: Conversation) -> ChatRequest:
    """The chat's form; what has no effect is added to `found.ignored`.

    Raises: BadRequest that names the parameter.
    """
    limits.check_number("max_output_tokens", fields.max_output_tokens)
    _check_metadata(fields.metadata or {})
    reasoning, text = fields.reasoning or ReasoningConfig(), fields.text or TextConfig()
    given = {
        "reasoning.summary": reasoning.summary,
        "text.verbosity": text.verbosity,
        "store": fields.store or None,
        **{f"include.{name}": name for name in fields.include or () if name != ENCRYPTED},
    }
    found.ignored.update(dict.fromkeys(name for name, value in given.items() if value is not None))
    return ChatRequest(
        model=fields.model,
        messages=found.messages,
        reasoning_effort=reasoning.effort,
        response_format=_format(text),
        tools=[_tool(i, tool) for i, tool in enumerate(fields.tools or ())] or None,
        tool_choice=_choice(fields.tool_choice),
        parallel_tool_calls=fields.parallel_tool_calls,
        max_tokens=fields.max_output_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        stream=fields.stream,
        user_id=fields.user,
    )


def _check_metadata(metadata: dict[str, str]) -> None:
    limits.check_count("metadata", len(metadata), limits.MAX_METADATA, "entries")
    for key, value in metadata.items():
        limits.check_count("metadata", len(key), limits.MAX_METADATA_KEY, "characters in a key")
        limits.check_count(
            "metadata", len(value), limits.MAX_METADATA_VALUE, "characters in a value"
        )


def _format(text: TextConfig) -> ResponseFormat | None:
    given = text.format
    if given is None:
        return None
    if given.type != "json_schema":
        return ResponseFormat(given.type)
    schema = JsonSchemaFormat(
        name=given.name or "",
        description=given.description,
        schema=given.schema,
        strict=given.strict,
    )
    return ResponseFormat("json_schema", schema)


def _tool(index: int, tool: ResponsesTool) -> Tool:
    if tool.type != "function":
        raise BadValue(
            f"tools[{index}].type {tool.type[:32]!r} is not supported here; it must be "
            "'function': this server runs no tools.",
            param=f"tools[{index}].type",
        )
    if tool.name is None:
        raise BadRequest(f"tools[{index}] needs name.", param=f"tools[{index}].name")
    return Tool(FunctionTool(tool.name, tool.description, tool.parameters, tool.strict))


def _choice(given: str | ResponsesToolChoice | None) -> str | NamedTool | None:
    if given is None or isinstance(given, str):
        return given
    if given.type != "function":
        raise BadValue(
            f"tool_choice.type {given.type[:32]!r} is not supported here; it must be 'function'.",
            param="tool_choice.type",
        )
    if given.name is None:
        raise BadRequest("tool_choice of type 'function' needs name.", param="tool_choice.name")
    return NamedTool(FunctionName(given.name))
