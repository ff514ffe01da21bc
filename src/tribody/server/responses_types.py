"""What crosses the wire on OpenAI's Responses surface: POST /responses.

Types are checked here by msgspec, values in `responses_request`.  Unknown fields inside items are
passed over, those of the request are named in `x-tribody-ignored`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tribody.server.types import UNSET, UnsetType


class InputPart(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item; `type` says which of the fields belong to it, and may be absent from a message."""

    type: str | None = None
    role: str | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    encrypted_content: str | None = None


class ResponsesTool(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class ResponsesToolChoice(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None


class TextFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    name: str | None = None
    description: str | None = None
    schema: dict[str, object] | bool | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True):
    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningConfig(msgspec.Struct, frozen=True):
    effort: str | None = None
    summary: str | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    input: str | list[InputItem]
    instructions: str | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: str | ResponsesToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    store: bool | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None


# --- answers ---------------------------------------------------------------------------------

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[str] = []  # always empty, but clients want the list
    logprobs: list[str] = []


ContentPart = ReasoningText | OutputText


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """`encrypted_content`, where the request includes it, is the text in base 64: it lets clients
    that send nothing else back do so, and hides nothing."""

    id: str
    status: ItemStatus
    summary: list[str] = []
    content: list[ReasoningText]
    encrypted_content: str | UnsetType = UNSET


class MessageItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class FunctionCallItem(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"
):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = ReasoningItem | MessageItem | FunctionCallItem


class InputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    cached_tokens: int
    cache_write_tokens: int = 0  # nothing is charged for filling the cache


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseError(msgspec.Struct, frozen=True):
    code: str
    message: str


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked and how it was sampled come back with the answer, as clients expect.

    What is always the same is here because the schema requires it.
    """

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False] = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    frequency_penalty: float
    max_output_tokens: int | None
    max_tool_calls: None = None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: None = None
    prompt_cache_key: None = None
    reasoning: ReasoningConfig
    safety_identifier: None = None
    service_tier: Literal["default"] = "default"
    store: Literal[False] = False
    temperature: float
    text: TextConfig
    tool_choice: str | ResponsesToolChoice
    tools: list[ResponsesTool]
    top_logprobs: Literal[0] = 0
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]


ResponseEventType = Literal[
    "response.created",
    "response.in_progress",
    "response.completed",
    "response.incomplete",
    "response.failed",
]


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """News of the whole answer."""

    type: ResponseEventType
    sequence_number: int
    response: ResponseObject


class ItemEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An item begins or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An item's only part begins or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    output_index: int
    item_id: str
    content_index: int = 0
    part: ContentPart


class TextEvent(msgspec.Struct, frozen=True, kw_only=True):
    """More text of an item (`delta`), or all of it (`text`, and of a call `arguments`)."""

    type: Literal[
        "response.reasoning_text.delta", "response.reasoning_text.done",
        "response.output_text.delta", "response.output_text.done",
        "response.function_call_arguments.delta", "response.function_call_arguments.done",
    ]  # fmt: skip
    sequence_number: int
    output_index: int
    item_id: str
    content_index: int | UnsetType = UNSET  # a call has no parts
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    logprobs: list[str] | UnsetType = UNSET


StreamEvent = ResponseEvent | ItemEvent | PartEvent | TextEvent
