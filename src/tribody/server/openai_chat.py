"""POST /v1/chat/completions: messages in, an assistant's message or its deltas out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.errors import BadRequest
from tribody.core.principal import Principal
from tribody.core.request import TokenLogprob
from tribody.server import limits, thinking, validation
from tribody.server.endpoint import respond
from tribody.server.generation import Generation, Prompt
from tribody.server.logprobs import entries
from tribody.server.models_table import ServedModel, ServedName
from tribody.server.rendering import ChoiceRenderer, Piece
from tribody.server.service import Service, decode, engine_request
from tribody.server.stream import DONE, KEEP_ALIVE, frame
from tribody.server.types import (
    UNSET,
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    ChunkChoice,
    Delta,
    UsageBody,
)
from tribody.text.detokenizer import TextStream
from tribody.text.reasoning import ReasoningSplitter, prompt_opens_thinking
from tribody.text.tokenizer import Tokenizer

ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name for it
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


@dataclass(frozen=True)
class ChatWork:
    """One accepted chat request, ready to run."""

    fields: ChatRequest
    ignored: list[str]
    model: ServedModel
    prompt: Prompt
    reasoning: bool  # the answer's messages carry reasoning_content


async def chat_completions(http: HttpRequest) -> Response:
    """The endpoint."""
    return await respond(http, prepare, answer, _stream)


def generation_for(service: Service, work: ChatWork, started: float) -> Generation:
    """The generation that `work` asks for; `started` is when it arrived, by the service's clock."""
    return Generation(work.model, [work.prompt], service.metrics, service.clock, started)


def prepare(service: Service, body: bytes, caller: Principal) -> ChatWork:
    """Decode, check, render and tokenize; runs in a text thread.

    Raises: BadRequest for everything that is wrong with the request.
    """
    fields, ignored = decode(body, ChatRequest)
    num_logprobs = _check_chat_fields(fields)
    served = service.models.find(fields.model)
    model, info = served.model, served.model.engine.info
    text, without_effect = _prompt_text(served, fields)
    validation.refuse_hopeless(text, model.longest_token_bytes, info.max_context_tokens, "messages")
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    asked = fields.max_tokens
    if asked is None:
        asked = fields.max_completion_tokens
    max_tokens = validation.completion_budget(
        len(ids), asked, info.max_context_tokens, param="messages"
    )
    sampling = validation.sampling_params(
        fields, vocab_size=info.vocab_size, max_tokens=max_tokens, num_logprobs=num_logprobs
    )
    request = engine_request(fields, ids, sampling, caller)
    opens_thinking = prompt_opens_thinking(text)
    renderers = [
        ChoiceRenderer(
            choice,
            TextStream(model.tokenizer, sampling.stop),
            ReasoningSplitter(thinking=opens_thinking),
            section="reasoning" if opens_thinking else None,
        )
        for choice in range(request.n)
    ]
    return ChatWork(
        fields, ignored + without_effect, model, Prompt(request, renderers), opens_thinking
    )


def _prompt_text(served: ServedName, fields: ChatRequest) -> tuple[str, list[str]]:
    """The rendered prompt, and the names of the thinking fields that this model cannot follow.

    The request says whether to think, else the name that it used, else the template.
    """
    messages = [_template_message(i, message) for i, message in enumerate(fields.messages)]
    template = served.model.chat_template
    if template is None:
        raise BadRequest(
            f"The model {served.model.model_id!r} has no chat template; use /v1/completions.",
            param="model",
        )
    asked, names = thinking.asked(fields)
    if asked is None:
        return template.prompt(messages, thinking=served.thinking), []
    text = template.prompt(messages, thinking=asked)
    has_switch = text != template.prompt(messages, thinking=not asked)
    return text, [] if has_switch else names


def _check_chat_fields(fields: ChatRequest) -> int:
    """Check what only chat has; returns `num_logprobs` for SamplingParams."""
    if fields.top_logprobs is not None and fields.top_logprobs > 0 and not fields.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    given = {fields.max_tokens, fields.max_completion_tokens} - {None}
    if len(given) > 1:
        raise BadRequest(
            "max_tokens and max_completion_tokens differ; give one of them.", param="max_tokens"
        )
    if fields.response_format is not None and fields.response_format.type != "text":
        raise BadRequest(
            "response_format other than 'text' is not supported.", param="response_format"
        )
    if not fields.messages:
        raise BadRequest("messages must hold at least one message.", param="messages")
    limits.check_count("messages", len(fields.messages), limits.MAX_MESSAGES, "messages")
    return (fields.top_logprobs or 0) if fields.logprobs else -1


def _template_message(index: int, message: ChatMessage) -> dict[str, object]:
    """A message as chat templates expect it.  Earlier reasoning stays out of the context."""
    where = f"messages[{index}]"
    role = ROLES.get(message.role)
    if role is None:
        raise BadRequest(
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
    if message.tool_calls:
        result["tool_calls"] = msgspec.to_builtins(message.tool_calls)
    return result


def _message_text(where: str, message: ChatMessage) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    param = f"{where}.content"
    limits.check_count(param, len(message.content), limits.MAX_PARTS, "parts")
    for i, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            raise BadRequest(
                f"{param}[{i}]: only parts of type 'text' are supported, "
                f"not {part.type[:32]!r} without text.",
                param=f"{param}[{i}]",
            )
    return "".join(part.text or "" for part in message.content)


# --- the answer ------------------------------------------------------------------------------


@dataclass
class _ChoiceSum:
    """One choice of a non-streamed answer, as it grows."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    content_logprobs: list[TokenLogprob] = field(default_factory=list)
    reasoning_logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str = ""

    def add(self, piece: Piece) -> None:
        if piece.section == "content":
            self.content.append(piece.text)
            self.content_logprobs += piece.logprobs
        else:
            self.reasoning.append(piece.text)
            self.reasoning_logprobs += piece.logprobs
        self.finish_reason = piece.finish_reason or self.finish_reason


async def answer(service: Service, work: ChatWork, started: float) -> ChatCompletion:
    """Run `work` to its end."""
    generation = generation_for(service, work, started)
    head = service.answer_head(work.model, work.prompt.request.id)
    sums = [_ChoiceSum() for _ in range(work.prompt.request.n)]
    async with generation:
        async for piece in generation.pieces():
            if piece is not None:
                sums[piece.choice].add(piece)
    choices = [
        ChatChoice(
            index=i,
            message=AssistantMessage(
                content="".join(total.content),
                reasoning_content="".join(total.reasoning)
                if work.reasoning or total.reasoning
                else UNSET,
            ),
            logprobs=_logprobs(work, total.content_logprobs, total.reasoning_logprobs),
            finish_reason=total.finish_reason,
        )
        for i, total in enumerate(sums)
    ]
    return ChatCompletion(
        **head,
        choices=choices,
        usage=generation.usage(),
    )


def _logprobs(
    work: ChatWork, content: list[TokenLogprob], reasoning: list[TokenLogprob]
) -> ChatLogprobs | None:
    if not work.fields.logprobs:
        return None
    tokenizer: Tokenizer = work.model.tokenizer
    return ChatLogprobs(
        content=entries(tokenizer, content),
        reasoning_content=entries(tokenizer, reasoning) if reasoning else UNSET,
    )


async def _stream(service: Service, work: ChatWork, started: float) -> AsyncGenerator[bytes, None]:
    """Frames of the answer: the role of each choice, its deltas, its end; usage; [DONE]."""
    generation = generation_for(service, work, started)
    head = service.answer_head(work.model, work.prompt.request.id)
    options = work.fields.stream_options
    include_usage = bool(options and options.include_usage)
    usage = None if include_usage else UNSET

    def chunk(choices: list[ChunkChoice], usage: UsageBody | msgspec.UnsetType | None) -> bytes:
        return frame(
            ChatChunk(
                **head,
                choices=choices,
                usage=usage,
            )
        )

    async with generation:
        opened = False
        async for piece in generation.pieces():
            if not opened:
                opened = True
                for index in range(work.prompt.request.n):
                    yield chunk([ChunkChoice(index=index, delta=_opening(work))], usage)
            if piece is None:
                yield KEEP_ALIVE
            else:
                yield chunk([_chunk_choice(work, piece)], usage)
        if include_usage:
            yield chunk([], generation.usage())
        yield DONE


def _opening(work: ChatWork) -> Delta:
    if work.reasoning:
        return Delta(role="assistant", content=None, reasoning_content="")
    return Delta(role="assistant", content="")


def _chunk_choice(work: ChatWork, piece: Piece) -> ChunkChoice:
    """A chunk carries reasoning or content, never both: clients lose text otherwise."""
    if piece.finish_reason is not None:
        delta = Delta()
    elif piece.section == "reasoning":
        delta = Delta(content=None, reasoning_content=piece.text)
    else:
        delta = Delta(content=piece.text)
    reasoning = piece.section == "reasoning"
    logprobs = None
    if piece.logprobs:
        logprobs = _logprobs(
            work, [] if reasoning else piece.logprobs, piece.logprobs if reasoning else []
        )
    return ChunkChoice(
        index=piece.choice, delta=delta, logprobs=logprobs, finish_reason=piece.finish_reason
    )
