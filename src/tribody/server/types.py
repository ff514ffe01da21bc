"""What crosses the wire: requests as they may arrive, answers as they leave.

Types are checked here by msgspec, strictly (no number in a string, no bool for an int); ranges are
checked against `limits`.  null means "not given" wherever OpenAI's clients send it.  Fields that
are not listed are tolerated and named in the header `x-tribody-ignored`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tribody.core.engine_info import WeightPrecision

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class ContentPart(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True):
    function: FunctionCall
    id: str = ""
    type: str = "function"


class FunctionTool(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None  # a JSON schema; None: no parameters
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    function: FunctionTool
    type: str = "function"


class FunctionName(msgspec.Struct, frozen=True):
    name: str


class NamedTool(msgspec.Struct, frozen=True):
    function: FunctionName
    type: str = "function"


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None  # of earlier turns; kept where the prompt format keeps it
    prefix: bool | None = None  # of the last message: an assistant's, to be continued


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class JsonSchemaFormat(msgspec.Struct, frozen=True):
    name: str = ""
    description: str | None = None
    schema: dict[str, object] | bool | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    type: str
    json_schema: JsonSchemaFormat | None = None


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that chat and completions share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = None
    n: int | None = None
    ignore_eos: bool | None = None
    user: str | None = None
    user_id: str | None = None


class ThinkingSwitch(msgspec.Struct, frozen=True):
    type: str


class ChatRequest(SamplingFields, frozen=True, kw_only=True):
    messages: list[ChatMessage]
    thinking: ThinkingSwitch | None = None
    chat_template_kwargs: dict[str, object] | None = None  # see `thinking`
    reasoning_effort: str | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    explain_cache: bool | None = None  # tribody's own: see `recent_prompts`


class CompletionRequest(SamplingFields, frozen=True, kw_only=True):
    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    best_of: int | None = None


# --- answers ---------------------------------------------------------------------------------


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class UsageBody(msgspec.Struct, frozen=True, kw_only=True):
    """prompt = hit + miss; total = prompt + completion; both spellings of the hits, always."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_cache_hit_tokens: int
    prompt_cache_miss_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CacheDifference(msgspec.Struct, frozen=True, kw_only=True):
    """The first token that differs, where its text begins in the prompt, and both texts there."""

    token: int
    character: int
    earlier: str
    now: str


class CacheExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """How a prompt compares with the most similar of the caller's earlier ones."""

    unit_tokens: int  # only whole units are found in the cache
    same_tokens: int
    note: str
    first_difference: CacheDifference | None = None


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class LogprobEntry(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True, omit_defaults=True):
    """`content` always; `reasoning_content` only where the model was thinking."""

    content: list[LogprobEntry]
    reasoning_content: list[LogprobEntry] | UnsetType = UNSET


class ToolCallBody(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None  # OpenAI's schema requires it of every message
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallBody] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageBody
    cache_explanation: CacheExplanation | UnsetType = UNSET


class FunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    name: str | UnsetType = UNSET
    arguments: str


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The first of a call has its id, type and name; those after it only more arguments."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: UsageBody | UnsetType | None = UNSET
    cache_explanation: CacheExplanation | UnsetType = UNSET


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, and also each chunk of a stream (then `usage` may be absent)."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageBody | UnsetType | None = UNSET


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str  # the model that answers to `id`
    max_context_tokens: int
    aliases: list[str]
    precision: WeightPrecision | None = None  # what weights are kept in: tribody's own


class Status(msgspec.Struct, frozen=True):
    status: str


class Version(msgspec.Struct, frozen=True):
    version: str


class BalanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Amounts are strings, as DeepSeek sends them."""

    currency: str
    total_balance: str
    granted_balance: str
    topped_up_balance: str


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    is_available: bool
    balance_infos: list[BalanceInfo]


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelCard]
    object: Literal["list"] = "list"
