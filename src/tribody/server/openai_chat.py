"""POST /chat/completions: messages in, an assistant's message or its deltas out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.errors import EngineFailed, Overloaded
from tribody.core.principal import Principal
from tribody.core.request import TokenLogprob
from tribody.server import chat
from tribody.server.call import Call
from tribody.server.chat import ChatWork, generation_for
from tribody.server.endpoint import respond
from tribody.server.generation import Generation
from tribody.server.logprobs import entries
from tribody.server.rendering import Finish, Piece
from tribody.server.service import Service, decode
from tribody.server.stream import DONE, KEEP_ALIVE, frame
from tribody.server.tools import call_id
from tribody.server.types import (
    UNSET,
    AssistantMessage,
    CacheExplanation,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    ChunkChoice,
    Delta,
    FunctionCall,
    FunctionDelta,
    ToolCallBody,
    ToolCallDelta,
    UnsetType,
    UsageBody,
)
from tribody.text.tokenizer import Tokenizer
from tribody.text.tool_calls import CallStart, ToolEvent


async def chat_completions(http: HttpRequest) -> Response:
    """The endpoint."""
    return await respond(http, prepare, answer, _stream)


def prepare(service: Service, body: bytes, caller: Principal) -> ChatWork:
    """Decode and prepare; runs in a text thread.

    Raises: BadRequest for everything that is wrong with the request.
    """
    fields, ignored = decode(body, ChatRequest)
    return chat.prepare(service, fields, ignored, caller)


# --- a whole answer --------------------------------------------------------------------------


@dataclass
class _Call:
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass
class _ChoiceSum:
    """One choice of a non-streamed answer, as it grows."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    content_logprobs: list[TokenLogprob] = field(default_factory=list)
    reasoning_logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: Finish = "stop"

    def add(self, piece: Piece) -> None:
        if piece.section == "reasoning":
            self.reasoning.append(piece.text)
            self.reasoning_logprobs += piece.logprobs
        else:
            self.content.append(piece.text)
            self.content_logprobs += piece.logprobs
        if isinstance(piece.call, CallStart):
            self.calls.append(_Call(piece.call.name))
        elif piece.call is not None:
            self.calls[piece.call.index].arguments.append(piece.call.text)
        self.finish_reason = piece.finish_reason or self.finish_reason

    def message(self, *, reasoning: bool) -> AssistantMessage:
        calls = [
            ToolCallBody(id=call_id(i), function=FunctionCall(call.name, "".join(call.arguments)))
            for i, call in enumerate(self.calls)
        ]
        thought = "".join(self.reasoning)
        return AssistantMessage(
            content="".join(self.content),
            reasoning_content=thought if reasoning or thought else UNSET,
            tool_calls=calls or UNSET,
        )


async def answer(service: Service, work: ChatWork, call: Call) -> ChatCompletion:
    """Run `work` to its end."""
    generation = generation_for(service, work, call)
    head = service.answer_head(work.model, work.prompt.request.id)
    sums = [_ChoiceSum() for _ in range(work.prompt.request.n)]
    async with generation:
        async for piece in generation.pieces():
            if piece is not None:
                sums[piece.choice].add(piece)
    choices = [
        ChatChoice(
            index=i,
            message=total.message(reasoning=work.reasoning),
            logprobs=_logprobs(work, total.content_logprobs, total.reasoning_logprobs),
            finish_reason=total.finish_reason,
        )
        for i, total in enumerate(sums)
    ]
    return ChatCompletion(
        **head,
        choices=choices,
        usage=generation.usage(),
        cache_explanation=work.explanation,
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


# --- a streamed answer -----------------------------------------------------------------------


class _Frames:
    """Chunks of one answer.  Where usage goes is a matter of style: DeepSeek puts it on the chunk
    that ends the answer, always; OpenAI into a chunk without choices, if asked for."""

    def __init__(self, service: Service, work: ChatWork) -> None:
        self.work = work
        self.head = service.answer_head(work.model, work.prompt.request.id)
        options = work.fields.stream_options
        self.asked = bool(options and options.include_usage)
        self.deepseek = work.caller.api.usage == "deepseek"
        self.unended = set(range(work.prompt.request.n))
        self._none: UnsetType | None = None if self.asked or self.deepseek else UNSET

    def chunk(
        self,
        choices: list[ChunkChoice],
        usage: UsageBody | None = None,
        explanation: CacheExplanation | UnsetType = UNSET,
    ) -> bytes:
        chunk = ChatChunk(
            **self.head,
            choices=choices,
            usage=usage or self._none,
            cache_explanation=explanation,
        )
        return frame(chunk)

    def opening(self) -> list[bytes]:
        """The role of each choice."""
        delta = Delta(role="assistant", content="")
        if self.work.reasoning:
            delta = Delta(role="assistant", content=None, reasoning_content="")
        return [self.chunk([ChunkChoice(index=i, delta=delta)]) for i in sorted(self.unended)]

    def piece(self, piece: Piece) -> ChunkChoice:
        """A chunk carries reasoning or content, never both: clients lose text otherwise."""
        reasoning = piece.section == "reasoning"
        logprobs = None
        if piece.logprobs:
            logprobs = _logprobs(
                self.work,
                [] if reasoning else piece.logprobs,
                piece.logprobs if reasoning else [],
            )
        return ChunkChoice(
            index=piece.choice,
            delta=self._delta(piece),
            logprobs=logprobs,
            finish_reason=piece.finish_reason,
        )

    def _delta(self, piece: Piece) -> Delta:
        if piece.call is not None:
            return Delta(tool_calls=[_call_delta(piece.call)])
        other = None if self.work.reasoning else UNSET
        if piece.finish_reason is not None:
            return Delta(content="", reasoning_content=other) if self.deepseek else Delta()
        if piece.section == "reasoning":
            return Delta(content=None, reasoning_content=piece.text)
        return Delta(content=piece.text, reasoning_content=other)

    def end(self, last: ChunkChoice, generation: Generation) -> list[bytes]:
        """The choice that ends the answer, usage, and the literal that ends the stream."""
        usage, why = generation.usage(), self.work.explanation
        if self.deepseek:
            return [self.chunk([last], usage, why), DONE]
        after = [self.chunk([], usage)] if self.asked else []
        return [self.chunk([last], explanation=why), *after, DONE]


def _call_delta(call: ToolEvent) -> ToolCallDelta:
    if isinstance(call, CallStart):
        function = FunctionDelta(name=call.name, arguments="")
        return ToolCallDelta(
            index=call.index, id=call_id(call.index), type="function", function=function
        )
    return ToolCallDelta(index=call.index, function=FunctionDelta(arguments=call.text))


async def _stream(service: Service, work: ChatWork, call: Call) -> AsyncGenerator[bytes, None]:
    """Frames of the answer: the role of each choice, its deltas, its end; usage; [DONE].

    A stream that has begun and that the engine cannot finish ends as DeepSeek's do, by a finish
    reason; in OpenAI's style it ends by an error.
    """
    generation = generation_for(service, work, call)
    frames = _Frames(service, work)
    opened = False
    last: ChunkChoice | None = None
    async with generation:
        try:
            async for piece in generation.pieces():
                if not opened:
                    opened = True
                    for chunk in frames.opening():
                        yield chunk
                if piece is None:
                    if work.caller.api.stream_keep_alive:
                        yield KEEP_ALIVE
                    continue
                choice = frames.piece(piece)
                if piece.finish_reason is not None:
                    frames.unended.discard(piece.choice)
                    if not frames.unended:
                        last = choice
                        continue
                yield frames.chunk([choice])
        except (EngineFailed, Overloaded):
            if not opened or not frames.deepseek:
                raise
            for index in sorted(frames.unended):
                if last is not None:
                    yield frames.chunk([last])
                last = frames.piece(Piece(index, "content", "", [], "insufficient_system_resource"))
        assert last is not None
        for chunk in frames.end(last, generation):
            yield chunk
