"""Answers from a running server, over its OpenAI-compatible API."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import msgspec

from tribody.cli.answers import Fields, Message, Text
from tribody.cli.http_client import base_url, get, post_events
from tribody.core.errors import EngineFailed
from tribody.server.errors import ErrorDetail


class _ModelName(msgspec.Struct):
    id: str


class _ModelNames(msgspec.Struct):
    data: list[_ModelName]


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    """What we need of a chunk, ours or another server's."""

    choices: list[_Choice] = msgspec.field(default_factory=list)
    error: ErrorDetail | None = None


class RemoteAnswers:
    """Ask the server which models it has when made.  Raises: NoServer, BadRequest, BadConfig."""

    def __init__(self, url: str, key: str | None, model: str | None) -> None:
        self._url = base_url(url)
        self._key = key
        if model is None:
            listed = get(f"{self._url}/v1/models", key)
            names = msgspec.json.decode(listed, type=_ModelNames).data
            if not names:
                raise EngineFailed(f"{self._url} serves no model")
            model = names[0].id
        self.model = model

    def __enter__(self) -> RemoteAnswers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def stream(self, messages: list[Message], fields: Fields) -> Iterator[Text]:
        """Raises: BadRequest, EngineFailed, NoServer."""
        body = {"model": self.model, "stream": True, "messages": messages, **fields}
        url = f"{self._url}/v1/chat/completions"
        for payload in post_events(url, self._key, msgspec.json.encode(body)):
            try:
                chunk = msgspec.json.decode(payload, type=_Chunk)
            except msgspec.MsgspecError as problem:
                raise EngineFailed(f"{url} sent what is not a chat chunk: {problem}") from problem
            if chunk.error is not None:
                raise EngineFailed(f"the server says: {chunk.error.message}")
            for choice in chunk.choices:
                if choice.delta.reasoning_content:
                    yield Text("reasoning", choice.delta.reasoning_content)
                if choice.delta.content:
                    yield Text("content", choice.delta.content)
