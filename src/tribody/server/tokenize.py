"""POST /tokenize: what a prompt costs before it is sent.  The shape is vLLM's.

Either `prompt`, as completions encode it, or `messages` with whatever else of a chat request shapes
its prompt (tools, thinking).
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.core.errors import BadRequest
from tribody.core.principal import Principal
from tribody.server import chat, validation
from tribody.server.models_table import ServedModel, ServedName
from tribody.server.service import Service, decode_any, ignored_header, read_body
from tribody.server.types import ChatMessage, ChatRequest, ThinkingSwitch, Tool


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None
    thinking: ThinkingSwitch | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, object] | None = None
    add_special_tokens: bool | None = None  # of `prompt`: what the model expects before it; true
    return_token_strs: bool | None = None


class Tokenized(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


async def tokenize(http: HttpRequest) -> Response:
    """The endpoint.  Raises: BadRequest."""
    service: Service = http.app.state.service
    body = await read_body(http)
    made, ignored = await service.off_loop(_tokenized, service, body, http.state.principal)
    return Response(
        msgspec.json.encode(made), headers=ignored_header(ignored), media_type="application/json"
    )


def _tokenized(service: Service, body: bytes, caller: Principal) -> tuple[Tokenized, list[str]]:
    fields, ignored = decode_any(body, TokenizeRequest)
    served = service.find_model(fields.model, caller)
    model, limit = served.model, served.model.engine.info.max_context_tokens
    if (fields.prompt is None) == (fields.messages is None):
        raise BadRequest("Give either prompt or messages.", param="prompt")
    if fields.prompt is None:
        ids = _chat_ids(served, fields, caller)
    else:
        validation.refuse_hopeless(fields.prompt, model.longest_token_bytes, limit, "prompt")
        special = fields.add_special_tokens is not False
        ids = model.tokenizer.encode(fields.prompt, add_special_tokens=special)
    made = Tokenized(
        count=len(ids),
        max_model_len=limit,
        tokens=ids,
        token_strs=_spelled(model, ids) if fields.return_token_strs else None,
    )
    return made, ignored


def _spelled(model: ServedModel, ids: list[int]) -> list[str]:
    return [model.tokenizer.token_bytes(i).decode("utf-8", "replace") for i in ids]


def _chat_ids(served: ServedName, fields: TokenizeRequest, caller: Principal) -> list[int]:
    request = ChatRequest(
        model=fields.model,
        messages=fields.messages or [],
        tools=fields.tools,
        thinking=fields.thinking,
        reasoning_effort=fields.reasoning_effort,
        chat_template_kwargs=fields.chat_template_kwargs,
    )
    return chat.prompt_ids(served.model, chat.render(served, request, caller.api.profile))
