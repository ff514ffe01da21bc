"""What crosses the wire on Anthropic's surface: POST /anthropic/v1/messages.

Types are checked here by msgspec, values in `anthropic`.  Fields without effect are listed where
they may stand inside others, so that they can be named in `x-tribody-ignored`; unknown ones inside
blocks are passed over.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One content block; `type` says which of the fields belong to it."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    # An object; its text goes to the prompt as it came.
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None
    cache_control: object = None
    citations: object = None


class AnthropicMessage(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Block]


class AnthropicTool(msgspec.Struct, frozen=True):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, object] | None = None
    strict: bool | None = None
    cache_control: object = None


class AnthropicToolChoice(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class AnthropicThinking(msgspec.Struct, frozen=True):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct, frozen=True):
    type: str
    schema: dict[str, object] | bool | None = None


class OutputConfig(msgspec.Struct, frozen=True):
    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    messages: list[AnthropicMessage]
    system: str | list[Block] | None = None
    thinking: AnthropicThinking | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    max_tokens: int
    metadata: Metadata | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None


# --- answers ---------------------------------------------------------------------------------


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """`signature` proves nothing here: it is the answer's id, and what comes back is not read."""

    thinking: str
    signature: str


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str
    citations: None = None


class DirectCaller(msgspec.Struct, frozen=True, tag_field="type", tag="direct"):
    """The model itself, not code that it runs, called a tool."""


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw
    caller: DirectCaller = DirectCaller()


AnswerBlock = ThinkingBlock | TextBlock | ToolUseBlock

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class ThinkingTokens(msgspec.Struct, frozen=True):
    thinking_tokens: int


class AnthropicUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt is `input_tokens` + `cache_read_input_tokens`.  Nothing is charged for filling the
    cache, so nothing is ever counted as its creation.  Anthropic's schema requires the rest."""

    input_tokens: int
    cache_creation: None = None
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    inference_geo: None = None
    output_tokens: int
    output_tokens_details: ThinkingTokens
    server_tool_use: None = None
    service_tier: Literal["standard"] = "standard"


class MessageAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    stop_details: None = None
    container: None = None
    usage: AnthropicUsage


class TokenCount(msgspec.Struct, frozen=True):
    input_tokens: int


class ThinkingDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, tag_field="type", tag="signature_delta"):
    signature: str


class TextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class InputJsonDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


BlockDelta = ThinkingDelta | SignatureDelta | TextDelta | InputJsonDelta


class MessageEnd(msgspec.Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageStart(msgspec.Struct, frozen=True, tag_field="type", tag="message_start"):
    message: MessageAnswer


class BlockStart(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: AnswerBlock


class BlockMore(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: BlockDelta


class BlockStop(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    index: int


class MessageDelta(msgspec.Struct, frozen=True, tag_field="type", tag="message_delta"):
    delta: MessageEnd
    usage: AnthropicUsage


class MessageStop(msgspec.Struct, frozen=True, tag_field="type", tag="message_stop"):
    pass


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    pass


StreamEvent = MessageStart | BlockStart | BlockMore | BlockStop | MessageDelta | MessageStop | Ping
