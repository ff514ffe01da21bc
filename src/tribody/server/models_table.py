"""Which names answer, and what stands behind each: an engine and the text side of its model.

Several models may be served at once.  An alias is one more name for a model and may carry a
thinking mode: DeepSeek's two names do, whatever model answers to them.  An answer's `model` field
names the model that really answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from tribody.core.engine_info import EngineInfo, EngineStats
from tribody.core.errors import BadConfig, BadRequest
from tribody.core.request import Event, Request, Usage
from tribody.server.aliases import MODEL_NAME, THINKING_BY_NAME, Alias
from tribody.text.chat_template import ChatTemplate
from tribody.text.tokenizer import Tokenizer


class Events(Protocol):
    """The events of one request.  Closing them before the last one aborts the request, and nobody
    hears how far it came; after `abort` that comes with the last event."""

    def __aiter__(self) -> AsyncIterator[Event]: ...
    def __anext__(self) -> Awaitable[Event]: ...
    async def aclose(self) -> None: ...
    def abort(self) -> None: ...
    def known(self) -> Usage: ...


class Engine(Protocol):
    """What the server asks of `engine.client.EngineClient`; tests have a scripted one."""

    @property
    def info(self) -> EngineInfo: ...
    @property
    def stats(self) -> EngineStats: ...
    @property
    def ready(self) -> bool: ...
    @property
    def restarts(self) -> int: ...

    def submit(self, request: Request) -> Events:
        """The events of one request; BadRequest, Overloaded or EngineFailed instead of them."""
        ...

    async def close(self, drain_seconds: float) -> None: ...


@dataclass(frozen=True)
class ServedModel:
    """One model: its public id, its engine, and what turns text into its tokens and back.

    `chat_template` is None for a base model; it then answers completions only.
    """

    model_id: str
    engine: Engine
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    created: int  # seconds since 1970, when the server began to serve it
    longest_token_bytes: int  # no token covers more text: refuses hopeless prompts unread

    @cached_property
    def has_thinking_switch(self) -> bool:
        """Whether the template writes another prompt for an answer with thinking than without."""
        if self.chat_template is None:
            return False
        ask = [{"role": "user", "content": "x"}]
        with_it, without = (self.chat_template.prompt(ask, thinking=t) for t in (True, False))
        return with_it != without

    @property
    def system_fingerprint(self) -> str:
        """Changes whenever weights or number formats change."""
        info = self.engine.info
        text = f"{info.fingerprint}/{info.weight_format}/{info.kv_format}/{info.isa}"
        return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class ServedName:
    """One name that answers.  `thinking` holds where a request does not choose; None: as the
    model's template has it."""

    name: str
    model: ServedModel
    thinking: bool | None = None


class ModelsTable:
    """Names to models.  The models' own ids and the operator's aliases share one name space."""

    def __init__(self, models: Iterable[ServedModel], aliases: Mapping[str, Alias]) -> None:
        """Raises: BadConfig on a name used twice, malformed, or an alias to nothing."""
        self.models: list[ServedModel] = []
        self._by_name: dict[str, ServedName] = {}
        for model in models:
            self._add(ServedName(model.model_id, model))
            self.models.append(model)
        for name, alias in aliases.items():
            if alias.target not in self._by_name:
                known = ", ".join(sorted(self._by_name))
                raise BadConfig(f"--alias {name}={alias.target}: no such model; served are {known}")
            thinking = THINKING_BY_NAME.get(name) if alias.thinking is None else alias.thinking
            self._add(ServedName(name, self._by_name[alias.target].model, thinking))

    def _add(self, served: ServedName) -> None:
        if MODEL_NAME.fullmatch(served.name) is None:
            raise BadConfig(
                f"model name {served.name!r} must be 1 to 96 of letters, digits and . _ : / - "
                "and begin with a letter or digit; give it an --alias"
            )
        if self._by_name.get(served.name, served).model is not served.model:
            raise BadConfig(f"two models want the name {served.name!r}; give one an --alias")
        self._by_name[served.name] = served

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def find(self, name: str) -> ServedName:
        """Raises: BadRequest (404) when no model has this name."""
        served = self._by_name.get(name)
        if served is None:
            raise no_such_model(name)
        return served

    def names(self) -> list[str]:
        """Every name that answers."""
        return sorted(self._by_name)

    def aliases_of(self, model: ServedModel) -> list[str]:
        names = (n for n, s in self._by_name.items() if s.model is model and n != model.model_id)
        return sorted(names)

    def listed(self) -> list[ServedName]:
        """The models' own names, then those that answer in a mode of their own."""
        own = {model.model_id: self._by_name[model.model_id] for model in self.models}
        modes = {name: s for name, s in self._by_name.items() if s.thinking is not None}
        return list((own | modes).values())


def no_such_model(name: str) -> BadRequest:
    return BadRequest(
        f"The model {name[:96]!r} does not exist; GET /v1/models lists those that do.",
        param="model",
        status=404,
        code="model_not_found",
    )
