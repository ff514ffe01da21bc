"""POST /responses: OpenAI's Responses API over the chat, without a memory of its own."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.errors import TribodyError
from tribody.core.principal import Principal
from tribody.server import chat
from tribody.server.answer_items import AnswerItems, Change, Item, whole
from tribody.server.call import Call
from tribody.server.chat import ChatWork, generation_for
from tribody.server.endpoint import respond
from tribody.server.errors import error_for, own_words, reworded
from tribody.server.generation import Generation
from tribody.server.profiles import PROFILES
from tribody.server.responses_request import ENCRYPTED, WORDS, chat_request, conversation
from tribody.server.responses_types import (
    ContentPart,
    FunctionCallItem,
    IncompleteDetails,
    InputTokensDetails,
    ItemEvent,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    OutputTokensDetails,
    PartEvent,
    ReasoningConfig,
    ReasoningItem,
    ReasoningText,
    ResponseError,
    ResponseEvent,
    ResponseEventType,
    ResponseObject,
    ResponsesRequest,
    ResponseUsage,
    StreamEvent,
    TextConfig,
    TextEvent,
    TextFormat,
)
from tribody.server.service import Service, decode_any
from tribody.server.stream import KEEP_ALIVE, event_frame
from tribody.server.types import UNSET, ChatRequest
from tribody.server.validation import check_fields

ID_PREFIXES = {"reasoning": "rs", "text": "msg", "call": "fc"}
TEXTS = {"reasoning": "reasoning_text", "text": "output_text", "call": "function_call_arguments"}
ENDINGS: dict[str, ResponseEventType] = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
}


@dataclass(frozen=True)
class ResponsesWork:
    """One accepted request, ready to run, and how it was asked."""

    asked: ResponsesRequest
    chat: ChatWork

    @property
    def fields(self) -> ChatRequest:
        return self.chat.fields

    @property
    def ignored(self) -> list[str]:
        return self.chat.ignored


async def responses(http: HttpRequest) -> Response:
    """The endpoint."""
    return await respond(http, prepare, answer, _stream)


def prepare(service: Service, body: bytes, caller: Principal) -> ResponsesWork:
    """Decode, translate and prepare; runs in a text thread.

    Raises: BadRequest for everything that is wrong with the request.
    """
    fields, unknown = decode_any(body, ResponsesRequest)
    found = conversation(fields, drops_thinking=PROFILES[caller.api.profile].refuses_reasoning)
    asked = chat_request(fields, found)
    with own_words(WORDS, found.places):
        check_fields(asked)
        work = chat.prepare(service, asked, [*unknown, *found.ignored], caller)
    ignored = [reworded(name, WORDS) for name in work.ignored]
    return ResponsesWork(fields, replace(work, ignored=ignored))


# --- a whole answer --------------------------------------------------------------------------


async def answer(service: Service, work: ResponsesWork, call: Call) -> ResponseObject:
    """Run `work` to its end."""
    generation = generation_for(service, work.chat, call)
    writer = _Writer(service, work)
    return writer.ended(await whole(generation), generation)


class _Writer:
    """The answer's objects and events; ids and numbers are the same in all of them."""

    def __init__(self, service: Service, work: ResponsesWork) -> None:
        self.service = service
        self.drawn = work.chat.prompt.request.id.replace("-", "")
        self.encrypts = ENCRYPTED in (work.asked.include or ())
        self.begun = _begun(service, work, f"resp_{self.drawn}")
        self.num_events = 0

    def frame(self, event: StreamEvent) -> bytes:
        numbered = msgspec.structs.replace(event, sequence_number=self.num_events)
        self.num_events += 1
        return event_frame(event.type, msgspec.json.encode(numbered))

    def item_id(self, item: Item) -> str:
        return f"{ID_PREFIXES[item.kind]}_{self.drawn}{item.index:02d}"

    def item(self, item: Item, status: ItemStatus) -> OutputItem:
        """An item that has just begun has no parts yet."""
        item_id = self.item_id(item)
        if item.kind == "call":
            return FunctionCallItem(
                id=item_id, status=status, call_id=item.call_id, name=item.name, arguments=item.text
            )
        begun = status == "in_progress"
        if item.kind == "text":
            texts = [] if begun else [OutputText(item.text)]
            return MessageItem(id=item_id, status=status, content=texts)
        return ReasoningItem(
            id=item_id,
            status=status,
            content=[] if begun else [ReasoningText(item.text)],
            encrypted_content=_in_base_64(item.text) if self.encrypts and not begun else UNSET,
        )

    def ended(self, items: AnswerItems, generation: Generation) -> ResponseObject:
        cut = items.finish_reason == "length"
        return msgspec.structs.replace(
            self.begun,
            status="incomplete" if cut else "completed",
            incomplete_details=IncompleteDetails() if cut else None,
            completed_at=None if cut else int(self.service.wall_seconds()),
            output=self.output(items),
            usage=_usage(generation),
        )

    def failed(self, items: AnswerItems, generation: Generation, message: str) -> ResponseObject:
        return msgspec.structs.replace(
            self.begun,
            status="failed",
            error=ResponseError("server_error", message),
            output=self.output(items),
            usage=_usage(generation),
        )

    def output(self, items: AnswerItems) -> list[OutputItem]:
        return [self.item(item, self.status(item, items)) for item in items.items]

    def status(self, item: Item, items: AnswerItems) -> ItemStatus:
        """Of an item that gets no more text: the answer's end may have cut the last one."""
        cut = item is items.items[-1] and items.finish_reason not in ("stop", "tool_calls")
        return "incomplete" if cut else "completed"

    # --- events ---

    def opening(self) -> Iterator[bytes]:
        yield self.frame(_news("response.created", self.begun))
        yield self.frame(_news("response.in_progress", self.begun))

    def end(self, response: ResponseObject) -> bytes:
        return self.frame(_news(ENDINGS[response.status], response))

    def change(self, change: Change, items: AnswerItems) -> Iterator[bytes]:
        match change.step:
            case "begin":
                yield from self._begin(change.item)
            case "text":
                yield self.frame(self._text(change.item, "delta", change.text))
            case "end":
                yield from self._end(change.item, self.status(change.item, items))

    def _begin(self, item: Item) -> Iterator[bytes]:
        empty = replace(item, parts=[])  # text that came with the beginning is news of its own
        event = ItemEvent(
            type="response.output_item.added",
            sequence_number=0,
            output_index=item.index,
            item=self.item(empty, "in_progress"),
        )
        yield self.frame(event)
        if item.kind != "call":
            yield self.frame(self._part(empty, "response.content_part.added"))

    def _end(self, item: Item, status: ItemStatus) -> Iterator[bytes]:
        yield self.frame(self._text(item, "done", item.text))
        if item.kind != "call":
            yield self.frame(self._part(item, "response.content_part.done"))
        event = ItemEvent(
            type="response.output_item.done",
            sequence_number=0,
            output_index=item.index,
            item=self.item(item, status),
        )
        yield self.frame(event)

    def _part(
        self, item: Item, kind: Literal["response.content_part.added", "response.content_part.done"]
    ) -> PartEvent:
        part: ContentPart = OutputText(item.text)
        if item.kind == "reasoning":
            part = ReasoningText(item.text)
        return PartEvent(
            type=kind,
            sequence_number=0,
            output_index=item.index,
            item_id=self.item_id(item),
            part=part,
        )

    def _text(self, item: Item, step: Literal["delta", "done"], text: str) -> TextEvent:
        event = TextEvent(
            type=f"response.{TEXTS[item.kind]}.{step}",  # type: ignore[arg-type]
            sequence_number=0,
            output_index=item.index,
            item_id=self.item_id(item),
            content_index=UNSET if item.kind == "call" else 0,
            logprobs=[] if item.kind == "text" else UNSET,
        )
        if step == "delta":
            return msgspec.structs.replace(event, delta=text)
        if item.kind == "call":
            return msgspec.structs.replace(event, arguments=text, name=item.name)
        return msgspec.structs.replace(event, text=text)


def _news(kind: ResponseEventType, response: ResponseObject) -> ResponseEvent:
    return ResponseEvent(type=kind, sequence_number=0, response=response)


def _begun(service: Service, work: ResponsesWork, response_id: str) -> ResponseObject:
    """The answer before there is any of it; with what was asked."""
    asked = work.asked
    head = service.answer_head(work.chat.model, response_id)
    text = asked.text or TextConfig()
    sampling = work.chat.prompt.request.sampling
    return ResponseObject(
        id=head["id"],
        created_at=head["created"],
        model=head["model"],
        status="in_progress",
        instructions=asked.instructions,
        frequency_penalty=sampling.frequency_penalty,
        max_output_tokens=asked.max_output_tokens,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        presence_penalty=sampling.presence_penalty,
        reasoning=asked.reasoning or ReasoningConfig(),
        temperature=sampling.temperature,
        text=TextConfig(text.format or TextFormat("text"), text.verbosity or "medium"),
        tool_choice=asked.tool_choice or "auto",
        tools=asked.tools or [],
        top_p=sampling.top_p,
        user=asked.user,
        metadata=asked.metadata or {},
    )


def _usage(generation: Generation) -> ResponseUsage:
    usage = generation.usage()
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.prompt_cache_hit_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(usage.completion_tokens_details.reasoning_tokens),
        total_tokens=usage.total_tokens,
    )


def _in_base_64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# --- a streamed answer -----------------------------------------------------------------------


async def _stream(service: Service, work: ResponsesWork, call: Call) -> AsyncGenerator[bytes, None]:
    """Frames of the answer.  What fails after it has begun ends with response.failed."""
    generation = generation_for(service, work.chat, call)
    writer = _Writer(service, work)
    items = AnswerItems()
    opened = False
    async with generation:
        try:
            async for piece in generation.pieces():
                if not opened:
                    opened = True
                    for frame in writer.opening():
                        yield frame
                if piece is None:
                    if work.chat.caller.api.stream_keep_alive:
                        yield KEEP_ALIVE
                    continue
                for change in items.push(piece):
                    for frame in writer.change(change, items):
                        yield frame
        except TribodyError as error:
            if not opened:
                raise
            items.finish_reason = "insufficient_system_resource"
            message = error_for(error, work.chat.caller.api.errors).detail.message
            yield writer.end(writer.failed(items, generation, message))
            return
        yield writer.end(writer.ended(items, generation))
