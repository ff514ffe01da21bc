"""POST /anthropic/v1/messages and …/count_tokens: Anthropic's Messages API over the chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.principal import Principal
from tribody.server import chat
from tribody.server.answer_items import AnswerItems, Change, Item, whole
from tribody.server.anthropic_request import WORDS, Conversation, chat_request, conversation
from tribody.server.anthropic_types import (
    AnswerBlock,
    AnthropicUsage,
    BlockDelta,
    BlockMore,
    BlockStart,
    BlockStop,
    CountTokensRequest,
    InputJsonDelta,
    MessageAnswer,
    MessageDelta,
    MessageEnd,
    MessagesRequest,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    StopReason,
    StreamEvent,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingTokens,
    TokenCount,
    ToolUseBlock,
)
from tribody.server.call import Call
from tribody.server.chat import ChatWork, generation_for
from tribody.server.endpoint import respond
from tribody.server.errors import HttpError, own_words, reworded
from tribody.server.generation import Generation
from tribody.server.profiles import PROFILES
from tribody.server.service import Service, decode_any, ignored_header, read_body
from tribody.server.stream import event_frame
from tribody.server.validation import check_fields

NO_INPUT = msgspec.Raw(b"{}")


async def messages(http: HttpRequest) -> Response:
    """The endpoint."""
    request_id: str = http.state.request_id

    def error_body(error: HttpError) -> bytes:
        return error.anthropic_body(request_id)

    return await respond(
        http,
        prepare,
        answer,
        _stream,
        error_frame=lambda error: event_frame("error", error_body(error)),
        error_body=error_body,
    )


async def count_tokens(http: HttpRequest) -> Response:
    """How many tokens the prompt of such a request has; nothing is generated."""
    service: Service = http.app.state.service
    body = await read_body(http)
    count, ignored = await service.off_loop(_counted, service, body, http.state.principal)
    return Response(
        msgspec.json.encode(count), headers=ignored_header(ignored), media_type="application/json"
    )


def prepare(service: Service, body: bytes, caller: Principal) -> ChatWork:
    """Decode, translate and prepare; runs in a text thread.

    Raises: BadRequest for everything that is wrong with the request.
    """
    fields, unknown = decode_any(body, MessagesRequest)
    found = _conversation(fields, caller)
    asked = chat_request(fields, found, service.models)
    with own_words(WORDS, found.places):
        check_fields(asked)
        work = chat.prepare(service, asked, [*unknown, *found.ignored], caller)
    return replace(work, ignored=[reworded(name, WORDS) for name in work.ignored])


def _counted(service: Service, body: bytes, caller: Principal) -> tuple[TokenCount, list[str]]:
    fields, unknown = decode_any(body, CountTokensRequest)
    found = _conversation(fields, caller)
    asked = chat_request(fields, found, service.models)
    served = service.find_model(asked.model, caller)
    with own_words(WORDS, found.places):
        ids = chat.prompt_ids(served.model, chat.render(served, asked, caller.api.profile))
    return TokenCount(len(ids)), [*unknown, *found.ignored]


def _conversation(fields: CountTokensRequest, caller: Principal) -> Conversation:
    refuses = PROFILES[caller.api.profile].refuses_reasoning
    return conversation(fields, drops_thinking=refuses)


# --- a whole answer --------------------------------------------------------------------------


async def answer(service: Service, work: ChatWork, call: Call) -> MessageAnswer:
    """Run `work` to its end."""
    generation = generation_for(service, work, call)
    items = await whole(generation)
    message_id = _message_id(work)
    return _message(
        work,
        [_block(item, message_id) for item in items.items],
        _usage(generation),
        _end(items),
    )


def _message_id(work: ChatWork) -> str:
    return "msg_" + work.prompt.request.id.replace("-", "")


def _message(
    work: ChatWork, content: list[AnswerBlock], usage: AnthropicUsage, end: MessageEnd | None
) -> MessageAnswer:
    return MessageAnswer(
        id=_message_id(work),
        model=work.model.model_id,
        content=content,
        stop_reason=None if end is None else end.stop_reason,
        stop_sequence=None if end is None else end.stop_sequence,
        usage=usage,
    )


def _block(item: Item, signature: str) -> AnswerBlock:
    if item.kind == "reasoning":
        return ThinkingBlock(item.text, signature)
    if item.kind == "text":
        return TextBlock(item.text)
    return ToolUseBlock(item.call_id, item.name, _input(item.text))


def _input(arguments: str) -> msgspec.Raw:
    """The arguments as they are where they are an object.  What was cut short or is none is kept
    as Anthropic advises: in an object with one key."""
    if not arguments.strip():
        return NO_INPUT
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        return msgspec.Raw(msgspec.json.encode({"INVALID_JSON": arguments}))
    return msgspec.Raw(arguments.encode())


def _end(items: AnswerItems) -> MessageEnd:
    reason: StopReason = "end_turn"
    if items.finish_reason == "length":
        reason = "max_tokens"
    elif items.finish_reason == "tool_calls":
        reason = "tool_use"
    elif items.stop_string is not None:
        reason = "stop_sequence"
    return MessageEnd(reason, items.stop_string if reason == "stop_sequence" else None)


def _usage(generation: Generation) -> AnthropicUsage:
    usage = generation.usage()
    return AnthropicUsage(
        input_tokens=usage.prompt_cache_miss_tokens,
        cache_read_input_tokens=usage.prompt_cache_hit_tokens,
        output_tokens=usage.completion_tokens,
        output_tokens_details=ThinkingTokens(usage.completion_tokens_details.reasoning_tokens),
    )


# --- a streamed answer -----------------------------------------------------------------------


async def _stream(service: Service, work: ChatWork, call: Call) -> AsyncGenerator[bytes, None]:
    """Frames of the answer; a ping after every silence, so that no proxy cuts a long thought."""
    generation = generation_for(service, work, call)
    items = AnswerItems()
    signature = _message_id(work)
    opened = False
    async with generation:
        async for piece in generation.pieces():
            if not opened:
                opened = True
                yield _frame(_start(work, generation))
            if piece is None:
                if work.caller.api.stream_keep_alive:
                    yield _frame(Ping())
                continue
            for change in items.push(piece):
                for event in _events(change, signature):
                    yield _frame(event)
        yield _frame(MessageDelta(_end(items), _usage(generation)))
        yield _frame(MessageStop())


def _frame(event: StreamEvent) -> bytes:
    return event_frame(str(type(event).__struct_config__.tag), msgspec.json.encode(event))


def _start(work: ChatWork, generation: Generation) -> MessageStart:
    """Its usage is what is known by then; that of the message's end counts."""
    usage = msgspec.structs.replace(_usage(generation), output_tokens=0)
    return MessageStart(_message(work, [], usage, None))


def _events(change: Change, signature: str) -> list[StreamEvent]:
    item = change.item
    if change.step == "begin":
        return [BlockStart(item.index, _block(replace(item, parts=[]), ""))]
    if change.step == "text":
        return [BlockMore(item.index, _delta(item, change.text))]
    signed = item.kind == "reasoning"
    return [
        *([BlockMore(item.index, SignatureDelta(signature))] if signed else ()),
        BlockStop(item.index),
    ]


def _delta(item: Item, text: str) -> BlockDelta:
    if item.kind == "reasoning":
        return ThinkingDelta(text)
    return TextDelta(text) if item.kind == "text" else InputJsonDelta(text)
