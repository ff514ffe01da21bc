"""POST /v1/completions: raw prompts in, continuations out.  No template, no reasoning.

With `suffix` the model fills in what belongs between the prompt and it (DeepSeek's /beta path,
and the others as well).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.errors import BadRequest, BadValue
from tribody.core.principal import Principal
from tribody.core.request import TokenLogprob
from tribody.server import limits, validation
from tribody.server.call import Call
from tribody.server.endpoint import respond
from tribody.server.generation import Generation, Prompt
from tribody.server.logprobs import parallel_lists
from tribody.server.models_table import ServedModel
from tribody.server.rendering import ChoiceRenderer, Piece
from tribody.server.service import Service, decode, engine_request
from tribody.server.stream import DONE, KEEP_ALIVE, frame
from tribody.server.types import (
    UNSET,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    UsageBody,
)
from tribody.text.answer_stream import AnswerStream
from tribody.text.fill_in_middle import fill_in_middle


@dataclass(frozen=True)
class CompletionWork:
    """One accepted completions request; choice i of prompt p is answered as p * n + i."""

    fields: CompletionRequest
    ignored: list[str]
    model: ServedModel
    prompts: list[Prompt]
    echoes: list[str]  # per prompt: what is shown before its continuation, "" without echo


async def completions(http: HttpRequest) -> Response:
    """The endpoint."""
    return await respond(http, prepare, answer, _stream)


def generation_for(service: Service, work: CompletionWork, call: Call) -> Generation:
    """The generation that `work` asks for."""
    return Generation(service, work.model, work.prompts, call)


def prepare(service: Service, body: bytes, caller: Principal) -> CompletionWork:
    """Decode, check and tokenize; runs in a text thread.

    Raises: BadRequest for everything that is wrong with the request.
    """
    fields, ignored = decode(body, CompletionRequest)
    _check_completion_fields(fields)
    model = service.find_model(fields.model, caller).model
    info = model.engine.info
    prompts: list[Prompt] = []
    echoes: list[str] = []
    for given in _prompt_list(fields.prompt, fields.n or 1):
        ids = _prompt_ids(given, fields.suffix, model)
        max_tokens = validation.completion_budget(
            len(ids), fields.max_tokens, info.max_context_tokens, param="prompt"
        )
        if fields.suffix and fields.max_tokens is None:
            max_tokens = min(max_tokens, limits.MAX_FIM_TOKENS)
        sampling = validation.sampling_params(
            fields,
            vocab_size=info.vocab_size,
            max_tokens=max_tokens,
            num_logprobs=-1 if fields.logprobs is None else fields.logprobs,
        )
        request = engine_request(fields, ids, sampling, caller)
        first_choice = len(prompts) * request.n
        renderers = [
            ChoiceRenderer(first_choice + i, AnswerStream(model.tokenizer, sampling.stop))
            for i in range(request.n)
        ]
        prompts.append(Prompt(request, renderers))
        echoes.append(_echo(fields, given, model))
    return CompletionWork(fields, ignored, model, prompts, echoes)


def _check_completion_fields(fields: CompletionRequest) -> None:
    if fields.suffix and (fields.max_tokens or 0) > limits.MAX_FIM_TOKENS:
        raise BadValue(
            f"max_tokens must be at most {limits.MAX_FIM_TOKENS} where there is a suffix, not "
            f"{fields.max_tokens}.",
            param="max_tokens",
        )
    if fields.echo and fields.logprobs is not None:
        raise BadRequest("echo together with logprobs is not supported.", param="echo")
    if fields.best_of is not None and fields.best_of != (fields.n or 1):
        raise BadRequest("best_of other than n is not supported.", param="best_of")


def _prompt_list(prompt: str | list[str | int | list[int]], n: int) -> list[str | list[int]]:
    """The four forms of `prompt` as a list of texts and lists of ids."""
    prompts = validation.texts_or_ids("prompt", prompt)
    limits.check_count("prompt", len(prompts), limits.MAX_PROMPTS, "prompts")
    if len(prompts) * n > limits.MAX_CHOICES:
        raise BadRequest(
            f"{len(prompts)} prompts times n = {n} are more than {limits.MAX_CHOICES} choices; "
            "send fewer at once.",
            param="n",
        )
    return prompts


def _prompt_ids(given: str | list[int], suffix: str | None, model: ServedModel) -> list[int]:
    info = model.engine.info
    if isinstance(given, str):
        validation.refuse_hopeless(
            given + (suffix or ""), model.longest_token_bytes, info.max_context_tokens, "prompt"
        )
        if suffix:
            return _between(given, suffix, model)
        ids = model.tokenizer.encode(given, add_special_tokens=True)
    elif suffix:
        raise BadRequest("suffix needs a prompt of text, not of token ids.", param="suffix")
    else:
        validation.check_token_ids("prompt", given, info.vocab_size)
        ids = given
    if not ids:
        raise BadRequest("prompt is empty; it needs at least one token.", param="prompt")
    return ids


def _between(prefix: str, suffix: str, model: ServedModel) -> list[int]:
    ids = fill_in_middle(model.tokenizer, prefix, suffix)
    if ids is None:
        raise BadRequest(
            f"The model {model.model_id!r} was not made to fill in the middle (its vocabulary has "
            "no tokens for it); leave suffix out.",
            param="suffix",
        )
    return ids


def _echo(fields: CompletionRequest, given: str | list[int], model: ServedModel) -> str:
    if not fields.echo:
        return ""
    if isinstance(given, str):
        return given
    return model.tokenizer.decode(given, skip_special_tokens=False)


# --- the answer ------------------------------------------------------------------------------


@dataclass
class _ChoiceSum:
    """One choice of a non-streamed answer, as it grows."""

    texts: list[str]
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.logprobs += piece.logprobs
        self.finish_reason = piece.finish_reason or self.finish_reason


async def answer(service: Service, work: CompletionWork, call: Call) -> Completion:
    """Run `work` to its end."""
    generation = generation_for(service, work, call)
    head = service.answer_head(work.model, work.prompts[0].request.id)
    n = work.fields.n or 1
    sums = [_ChoiceSum([echo]) for echo in work.echoes for _ in range(n)]
    async with generation:
        async for piece in generation.pieces():
            if piece is not None:
                sums[piece.choice].add(piece)
    choices = [
        CompletionChoice(
            index=i,
            text="".join(total.texts),
            logprobs=_logprobs(work, total.logprobs, 0),
            finish_reason=total.finish_reason,
        )
        for i, total in enumerate(sums)
    ]
    return Completion(
        **head,
        choices=choices,
        usage=generation.usage(),
    )


def _logprobs(
    work: CompletionWork, logprobs: list[TokenLogprob], offset: int
) -> CompletionLogprobs | None:
    wanted = work.fields.logprobs
    if wanted is None:
        return None
    return parallel_lists(work.model.tokenizer, logprobs, offset, with_top=wanted > 0)


async def _stream(
    service: Service, work: CompletionWork, call: Call
) -> AsyncGenerator[bytes, None]:
    """Frames of the answer: echoes, texts, ends; usage; [DONE]."""
    generation = generation_for(service, work, call)
    head = service.answer_head(work.model, work.prompts[0].request.id)
    options = work.fields.stream_options
    include_usage = bool(options and options.include_usage)
    usage = None if include_usage else UNSET

    def chunk(
        choices: list[CompletionChoice], usage: UsageBody | msgspec.UnsetType | None
    ) -> bytes:
        return frame(
            Completion(
                **head,
                choices=choices,
                usage=usage,
            )
        )

    n = work.fields.n or 1
    unsaid = {i: work.echoes[i // n] for i in range(n * len(work.echoes)) if work.echoes[i // n]}
    offsets = [0] * (n * len(work.echoes))
    async with generation:
        async for piece in generation.pieces():
            if piece is None:
                yield KEEP_ALIVE
                continue
            logprobs = None
            if piece.logprobs:
                logprobs = _logprobs(work, piece.logprobs, offsets[piece.choice])
            if logprobs is not None:
                offsets[piece.choice] += sum(len(token) for token in logprobs.tokens)
            choice = CompletionChoice(
                index=piece.choice,
                text=unsaid.pop(piece.choice, "") + piece.text,
                logprobs=logprobs,
                finish_reason=piece.finish_reason,
            )
            yield chunk([choice], usage)
        if include_usage:
            yield chunk([], generation.usage())
        yield DONE
