"""One table of all routes: what answers where, and what goes in and comes out.

The application, the labels of metrics and logs, and /openapi.json are made from it.
"""

from __future__ import annotations

from typing import get_args

import msgspec

from tribody.core.principal import Principal
from tribody.server import anthropic, anthropic_types, batches, files, responses_types, types
from tribody.server import small_endpoints as small
from tribody.server.api_route import ApiRoute, Labels, label_of
from tribody.server.auth import check_routes
from tribody.server.batch_types import BatchObject, BatchRequest
from tribody.server.embeddings import EmbeddingList, EmbeddingRequest, embeddings
from tribody.server.file_store import FileObject
from tribody.server.offline import BatchesQuery, FilesQuery
from tribody.server.openai_chat import chat_completions
from tribody.server.openai_completions import completions
from tribody.server.responses import responses
from tribody.server.results import ResultDecision, ResultRequest, decide_result
from tribody.server.tokenize import Tokenized, TokenizeRequest, tokenize

ROUTES = (
    ApiRoute(
        scope="chat",
        paths=("/v1/chat/completions", "/chat/completions", "/beta/chat/completions"),
        endpoint=chat_completions,
        summary="Answer a conversation",
        request=types.ChatRequest,
        response=types.ChatCompletion,
        events=(types.ChatChunk,),
        generates=True,
    ),
    ApiRoute(
        scope="completions",
        paths=("/v1/completions", "/completions", "/beta/completions"),
        endpoint=completions,
        summary="Continue a text, or fill in its middle",
        request=types.CompletionRequest,
        response=types.Completion,
        events=(types.Completion,),
        generates=True,
    ),
    ApiRoute(
        scope="responses",
        paths=("/v1/responses", "/responses"),
        endpoint=responses,
        summary="Answer a conversation, in the Responses API's form",
        request=responses_types.ResponsesRequest,
        response=responses_types.ResponseObject,
        events=get_args(responses_types.StreamEvent),
        generates=True,
    ),
    ApiRoute(
        scope="messages",
        paths=("/anthropic/v1/messages",),
        endpoint=anthropic.messages,
        summary="Answer a conversation, in Anthropic's form",
        request=anthropic_types.MessagesRequest,
        response=anthropic_types.MessageAnswer,
        events=get_args(anthropic_types.StreamEvent),
        generates=True,
    ),
    ApiRoute(
        scope="messages",
        paths=("/anthropic/v1/messages/count_tokens",),
        endpoint=anthropic.count_tokens,
        summary="Count the prompt's tokens of a conversation in Anthropic's form",
        request=anthropic_types.CountTokensRequest,
        response=anthropic_types.TokenCount,
    ),
    ApiRoute(
        scope="embeddings",
        paths=("/v1/embeddings", "/embeddings"),
        endpoint=embeddings,
        summary="Turn texts into vectors",
        request=EmbeddingRequest,
        response=EmbeddingList,
        generates=True,
    ),
    ApiRoute(
        scope="files",
        paths=("/v1/files", "/files"),
        endpoint=files.upload,
        summary="Keep a file, such as a batch's requests",
        form=files.FORM,
        response=FileObject,
    ),
    ApiRoute(
        scope="files",
        paths=("/v1/files", "/files"),
        endpoint=files.list_files,
        summary="List the caller's files",
        query=FilesQuery,
        response=files.FileList,
    ),
    ApiRoute(
        scope="files",
        paths=("/v1/files/{file_id}", "/files/{file_id}"),
        endpoint=files.show_file,
        summary="Show one file",
        response=FileObject,
    ),
    ApiRoute(
        scope="files",
        paths=("/v1/files/{file_id}", "/files/{file_id}"),
        endpoint=files.delete_file,
        summary="Delete one file",
        verb="DELETE",
        response=files.FileDeleted,
    ),
    ApiRoute(
        scope="files",
        paths=("/v1/files/{file_id}/content", "/files/{file_id}/content"),
        endpoint=files.file_content,
        summary="Send a file's content",
        media="application/octet-stream",
    ),
    ApiRoute(
        scope="batches",
        paths=("/v1/batches", "/batches"),
        endpoint=batches.create_batch,
        summary="Answer a file of requests when there is time",
        request=BatchRequest,
        response=BatchObject,
    ),
    ApiRoute(
        scope="batches",
        paths=("/v1/batches", "/batches"),
        endpoint=batches.list_batches,
        summary="List the caller's batches",
        query=BatchesQuery,
        response=batches.BatchList,
    ),
    ApiRoute(
        scope="batches",
        paths=("/v1/batches/{batch_id}", "/batches/{batch_id}"),
        endpoint=batches.show_batch,
        summary="Show one batch",
        response=BatchObject,
    ),
    ApiRoute(
        scope="batches",
        paths=("/v1/batches/{batch_id}/cancel", "/batches/{batch_id}/cancel"),
        endpoint=batches.cancel_batch,
        summary="Cancel one batch",
        verb="POST",
        response=BatchObject,
    ),
    ApiRoute(
        scope="tokenize",
        paths=("/tokenize",),
        endpoint=tokenize,
        summary="Count a prompt's tokens",
        request=TokenizeRequest,
        response=Tokenized,
    ),
    ApiRoute(
        scope="models",
        paths=("/v1/models", "/models"),
        endpoint=small.list_models,
        summary="List the models that answer",
        response=types.ModelList,
    ),
    ApiRoute(
        scope="models",
        paths=("/v1/models/{model_id:path}", "/models/{model_id:path}"),
        endpoint=small.show_model,
        summary="Show one model",
        response=types.ModelCard,
    ),
    ApiRoute(
        scope="balance",
        paths=("/user/balance",),
        endpoint=small.balance,
        summary="Show the account's balance",
        response=types.Balance,
    ),
    ApiRoute(
        scope="results",
        paths=("/v1/results/{request_id}",),
        endpoint=decide_result,
        summary="Accept an answer that is paid for by result, or decline it",
        request=ResultRequest,
        response=ResultDecision,
    ),
    ApiRoute(
        scope="probes",
        paths=("/health", "/livez"),
        endpoint=small.alive,
        summary="Tell whether the API process answers",
        response=types.Status,
    ),
    ApiRoute(
        scope="probes",
        paths=("/readyz",),
        endpoint=small.ready,
        summary="Tell whether new work may be sent",
        response=types.Status,
    ),
    ApiRoute(
        scope="metrics",
        paths=("/metrics",),
        endpoint=small.metrics,
        summary="Show figures for Prometheus",
    ),
    ApiRoute(
        scope="version",
        paths=("/version",),
        endpoint=small.version,
        summary="Show tribody's version",
        response=types.Version,
    ),
)

OPENAPI_PATH = "/openapi.json"  # what is made from this table

SCOPES = frozenset(route.scope for route in ROUTES)
_OF_THE_SERVER = "metrics"  # tells of all tenants: only for keys that name it, where there are any
GENERATING = frozenset(path for route in ROUTES if route.generates for path in route.paths)

LABELS = Labels(ROUTES, [OPENAPI_PATH])
_SCOPE_OF = {label_of(path): route.scope for route in ROUTES for path in route.paths}
_SCOPE_OF[OPENAPI_PATH] = "version"


def scope_of(path: str) -> str:
    """What a key must be for to come here; "none" where nobody can."""
    return _SCOPE_OF.get(LABELS.of(path), "none")


def check_scope(caller: Principal, path: str) -> None:
    """Raises: Forbidden where the caller's key is for other routes."""
    scope = scope_of(path)
    if caller.routes is None and scope == _OF_THE_SERVER and caller.is_charged:
        caller = msgspec.structs.replace(caller, routes=SCOPES - {scope})
    check_routes(caller, scope)
