"""From Anthropic's form of a request to the chat's.

Where several text blocks stand beside each other they are joined by a line break, but for an
assistant's: those are pieces of one answer.  A user's message with tool results becomes several:
each result is a message of its own.  An assistant's message at the end is continued.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from tribody.core.errors import BadRequest, BadValue
from tribody.server import limits
from tribody.server.aliases import anthropic_name
from tribody.server.anthropic_types import (
    AnthropicTool,
    AnthropicToolChoice,
    Block,
    CountTokensRequest,
    MessagesRequest,
    OutputConfig,
)
from tribody.server.models_table import ModelsTable
from tribody.server.types import (
    ChatMessage,
    ChatRequest,
    FunctionCall,
    FunctionName,
    FunctionTool,
    JsonSchemaFormat,
    NamedTool,
    ResponseFormat,
    ThinkingSwitch,
    Tool,
    ToolCall,
)

WORDS = tuple(
    (re.compile(ours), theirs)
    for ours, theirs in (
        (r"\.function\.parameters\b", ".input_schema"),
        (r"\.function\b", ""),
        (r"\breasoning_content\b", "content[].thinking"),
        (r"\breasoning_effort\b", "output_config.effort"),
        (r"\bresponse_format\.json_schema\b", "output_config.format"),
        (r"\bresponse_format\b", "output_config.format"),
        (r"\btool_call_id\b", "tool_use_id"),
        (r"\buser_id\b", "metadata.user_id"),
        (r"^stop\b", "stop_sequences"),
    )
)
THINKING = {"enabled": "enabled", "adaptive": "enabled", "disabled": "disabled"}
ANTHROPIC_CHOICES = {"none": "none", "auto": "auto", "any": "required"}
ANTHROPIC_ROLES = ("user", "assistant", "system")
BLOCK_TYPES = ("text", "thinking", "tool_use", "tool_result")
NOT_HERE = "is not supported here; allowed are"


@dataclass
class Conversation:
    """Messages of the chat as they are found, where each came from, and what has no effect."""

    drops_thinking: bool  # the profile takes none back
    messages: list[ChatMessage] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)

    def add(self, place: str, message: ChatMessage) -> None:
        self.messages.append(message)
        self.places.append(place)

    def plain(self, place: str, role: str, content: str | list[Block]) -> None:
        """A message of texts and, from a user, of tool results."""
        if isinstance(content, str):
            self.add(place, ChatMessage(role, content))
            return
        texts: list[str] = []
        for where, block in self._blocks(place, content):
            if block.type == "tool_result" and role == "user":
                if texts:
                    self.add(place, ChatMessage(role, "\n".join(texts)))
                texts = []
                self._result(where, block)
            else:
                allowed = ("text", "tool_result") if role == "user" else ("text",)
                texts.append(_text(where, block, allowed))
        if texts or not content:
            self.add(place, ChatMessage(role, "\n".join(texts)))

    def _result(self, place: str, block: Block) -> None:
        if block.tool_use_id is None:
            raise BadRequest(
                f"{place}: a tool_result needs tool_use_id.", param=f"{place}.tool_use_id"
            )
        content = block.content or ""
        if not isinstance(content, str):
            inner = self._blocks(f"{place}.content", content)
            content = "\n".join(_text(where, part, ("text",)) for where, part in inner)
        self.add(place, ChatMessage("tool", content, tool_call_id=block.tool_use_id))

    def assistant(self, place: str, content: str | list[Block]) -> None:
        if isinstance(content, str):
            self.add(place, ChatMessage("assistant", content))
            return
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        for where, block in self._blocks(place, content):
            if block.type == "thinking":
                thoughts.append(block.thinking or "")
            elif block.type == "tool_use":
                calls.append(_call(where, block))
            else:
                texts.append(_text(where, block, ("text", "thinking", "tool_use")))
        if thoughts and self.drops_thinking:
            self.ignored["messages.content.thinking"] = None
            thoughts = []
        message = ChatMessage(
            "assistant",
            "".join(texts),
            tool_calls=calls or None,
            reasoning_content="".join(thoughts) if thoughts else None,
        )
        self.add(place, message)

    def _blocks(self, place: str, blocks: Sequence[Block]) -> list[tuple[str, Block]]:
        where = place if place == "system" or place.endswith(".content") else f"{place}.content"
        limits.check_count(where, len(blocks), limits.MAX_PARTS, "blocks")
        for block in blocks:
            for name in ("cache_control", "citations", "is_error"):
                if getattr(block, name) is not None:
                    self.ignored[name] = None
        return [(f"{where}[{i}]", block) for i, block in enumerate(blocks)]

    def continue_last(self) -> None:
        """An assistant's message at the end is the beginning of the answer."""
        if self.messages and self.messages[-1].role == "assistant":
            last = self.messages[-1]
            if not last.tool_calls:
                self.messages[-1] = ChatMessage(
                    last.role, last.content, reasoning_content=last.reasoning_content, prefix=True
                )


def _text(place: str, block: Block, allowed: tuple[str, ...]) -> str:
    if block.type != "text":
        raise BadValue(
            f"{place}.type {block.type[:32]!r} {NOT_HERE} {', '.join(allowed)}.",
            param=f"{place}.type",
        )
    if block.text is None:
        raise BadRequest(f"{place}: a text block needs text.", param=f"{place}.text")
    return block.text


def _call(place: str, block: Block) -> ToolCall:
    if block.name is None or block.id is None:
        missing = "name" if block.name is None else "id"
        raise BadRequest(f"{place}: a tool_use block needs {missing}.", param=f"{place}.{missing}")
    arguments = bytes(block.input).decode()
    if not arguments.startswith("{"):
        raise BadValue(f"{place}.input must be an object.", param=f"{place}.input")
    return ToolCall(FunctionCall(block.name, arguments), block.id)


def conversation(fields: CountTokensRequest, *, drops_thinking: bool) -> Conversation:
    """Raises: BadRequest that names the block and what is wrong with it."""
    limits.check_count("messages", len(fields.messages), limits.MAX_MESSAGES, "messages")
    found = Conversation(drops_thinking)
    if fields.system is not None:
        found.plain("system", "system", fields.system)
    for i, message in enumerate(fields.messages):
        place = f"messages[{i}]"
        if message.role == "assistant":
            found.assistant(place, message.content)
        elif message.role in ANTHROPIC_ROLES:
            found.plain(place, message.role, message.content)
        else:
            raise BadValue(
                f"{place}.role {message.role[:32]!r} is not one of {', '.join(ANTHROPIC_ROLES)}.",
                param=f"{place}.role",
            )
    if not fields.messages:
        raise BadRequest("messages must hold at least one message.", param="messages")
    found.continue_last()
    return found


def chat_request(
    fields: CountTokensRequest, found: Conversation, models: ModelsTable
) -> ChatRequest:
    """The chat's form; what has no effect is added to `found.ignored`.

    Raises: BadRequest that names the parameter.
    """
    config = fields.output_config or OutputConfig()
    asked = ChatRequest(
        model=anthropic_name(fields.model, models),
        messages=found.messages,
        thinking=_thinking(fields, found.ignored),
        reasoning_effort=config.effort,
        response_format=_format(config),
        tools=_tools(fields.tools, found.ignored),
        tool_choice=_choice(fields.tool_choice, found.ignored),
    )
    if not isinstance(fields, MessagesRequest):
        return asked
    return msgspec.structs.replace(
        asked,
        max_tokens=fields.max_tokens,
        stop=fields.stop_sequences,
        stream=fields.stream,
        temperature=fields.temperature,
        top_p=fields.top_p,
        user_id=None if fields.metadata is None else fields.metadata.user_id,
    )


def _thinking(fields: CountTokensRequest, ignored: dict[str, None]) -> ThinkingSwitch | None:
    given = fields.thinking
    if given is None:
        return None
    for name in ("budget_tokens", "display"):
        if getattr(given, name) is not None:
            ignored[f"thinking.{name}"] = None
    if given.type not in THINKING:
        raise BadValue(
            f"thinking.type {given.type[:32]!r} {NOT_HERE} {', '.join(THINKING)}.",
            param="thinking.type",
        )
    return ThinkingSwitch(THINKING[given.type])


def _format(config: OutputConfig) -> ResponseFormat | None:
    if config.format is None:
        return None
    kind = config.format.type
    if kind != "json_schema":
        raise BadValue(
            f"output_config.format.type {kind[:32]!r} {NOT_HERE} json_schema.",
            param="output_config.format.type",
        )
    if config.format.schema is None:
        raise BadRequest("output_config.format needs schema.", param="output_config.format.schema")
    schema = JsonSchemaFormat(name="answer", schema=config.format.schema, strict=True)
    return ResponseFormat("json_schema", schema)


def _tools(tools: Sequence[AnthropicTool] | None, ignored: dict[str, None]) -> list[Tool] | None:
    made: list[Tool] = []
    for i, tool in enumerate(tools or ()):
        if tool.type not in (None, "custom"):
            raise BadValue(
                f"tools[{i}].type {tool.type[:32]!r} {NOT_HERE} custom: this server runs no tools.",
                param=f"tools[{i}].type",
            )
        if tool.cache_control is not None:
            ignored["cache_control"] = None
        function = FunctionTool(tool.name, tool.description, tool.input_schema, tool.strict)
        made.append(Tool(function))
    return made or None


def _choice(given: AnthropicToolChoice | None, ignored: dict[str, None]) -> str | NamedTool | None:
    if given is None:
        return None
    if given.disable_parallel_tool_use is not None:
        ignored["tool_choice.disable_parallel_tool_use"] = None
    if given.type == "tool":
        if given.name is None:
            raise BadRequest("tool_choice of type 'tool' needs name.", param="tool_choice.name")
        return NamedTool(FunctionName(given.name))
    if given.type not in ANTHROPIC_CHOICES:
        allowed = ", ".join([*ANTHROPIC_CHOICES, "tool"])
        raise BadValue(
            f"tool_choice.type {given.type[:32]!r} {NOT_HERE} {allowed}.",
            param="tool_choice.type",
        )
    return ANTHROPIC_CHOICES[given.type]
