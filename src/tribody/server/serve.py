"""The server's life: load the models, answer, drain, end.

SIGTERM or Ctrl-C drains: /readyz turns 503, new work is refused with a 503 that clients may retry,
what is in flight finishes within `shutdown_seconds`.  A second signal stops at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn

from tribody.core.api_settings import DEFAULT_API, ApiSettings
from tribody.core.clock import MonotonicClock
from tribody.core.engine_info import WeightPrecision
from tribody.core.errors import BadConfig, StorageFailed
from tribody.engine.client import EngineClient
from tribody.engine.machine import give_back_memory
from tribody.engine.protocol import Opened
from tribody.server.accounts import DATABASE, Accounts, Records
from tribody.server.admin.listening import admin_api, admin_text
from tribody.server.aliases import MODEL_NAME, Alias
from tribody.server.app import create_app
from tribody.server.auth import Keys
from tribody.server.data_folder import DataFolder
from tribody.server.http_protocol import CUT_SECONDS, uvicorn_config
from tribody.server.launch import NamedModel, launch
from tribody.server.listening import Listening, ServeConfig
from tribody.server.metering import Books
from tribody.server.metrics import Metrics
from tribody.server.models_table import ModelsTable, ServedModel
from tribody.server.offline import Offline
from tribody.server.service import Service
from tribody.text.chat_template import ChatTemplate, chat_template_for
from tribody.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """uvicorn's loop with our order of shutting down."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        shutdown_seconds: float,
        cut: Callable[[], Awaitable[None]],
        offline: Offline | None,
        ready: Callable[[], None],
    ) -> None:
        """`cut` ends the engines, which ends every running answer with an error event; `ready` is
        called when requests and signals are taken."""
        super().__init__(config)
        self._offline = offline
        self._ready = ready
        self._service = service
        self._shutdown_seconds = shutdown_seconds
        self._cut = cut
        self._drain_ends: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._service.books is not None:
            await self._service.books.start()
        await super().startup(sockets)
        if self._offline is not None:
            self._offline.batches.start()
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The books are closed when all is settled, and only then may another have the folder."""
        await super().shutdown(sockets)
        if self._offline is not None:
            await self._offline.batches.stop()
        await self._service.settled(CUT_SECONDS)
        if self._service.books is not None:
            await self._service.books.close()
        if self._offline is not None:
            await self._offline.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler: the first one drains, the second one stops."""
        if self._service.draining:
            self.should_exit = self.force_exit = True
        self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._service.draining and not self.should_exit:
            await self._drain()
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        now = self._service.clock.now()
        if self._drain_ends is None:
            self._drain_ends = now + self._shutdown_seconds
            logger.info("event=drain_begins in_flight=%d", self._service.in_flight)
            if self._offline is not None:  # batches go on with the next start
                await self._offline.batches.stop()
        if self._service.in_flight == 0 and not self._service.endings:
            self.should_exit = True
        elif now >= self._drain_ends:
            logger.warning("event=drain_cut in_flight=%d", self._service.in_flight)
            await self._cut()
            self.should_exit = True


def server_for(
    service: Service,
    shutdown_seconds: float,
    cut: Callable[[], Awaitable[None]],
    offline: Offline | None = None,
    ready: Callable[[], None] = lambda: None,
) -> DrainingServer:
    """A server around a service, not yet listening; run it with `serve(sockets=[bind(…)])`."""
    config = uvicorn_config(create_app(service, offline))
    return DrainingServer(config, service, shutdown_seconds, cut, offline, ready)


def make_service(
    models: list[ServedModel],
    aliases: dict[str, Alias],
    keys: Keys | None,
    api: ApiSettings = DEFAULT_API,
    books: Books | None = None,
) -> Service:
    table = ModelsTable(models, aliases)
    return Service(
        models=table,
        metrics=Metrics(table),
        keys=keys,
        clock=MonotonicClock(),
        wall_seconds=time.time,
        api=api,
        books=books,
    )


def data_folder(config: ServeConfig) -> DataFolder | None:
    """The data folder, if there is one that can be had.

    Raises: BadConfig where it cannot be had and was asked for.
    """
    if config.data_dir is None:
        return None
    try:
        return DataFolder(config.data_dir)
    except BadConfig as error:
        if config.data_dir_required:
            raise
        logger.warning("event=no_data_folder reason=%r", str(error))
        return None


def offline_in(folder: DataFolder | None, service: Service, config: ServeConfig) -> Offline | None:
    """The files and batches of the data folder.  Raises: as `data_folder`."""
    if folder is None:
        return None
    try:
        return Offline.in_folder(service, folder)
    except BadConfig as error:
        if config.data_dir_required:
            raise
        logger.warning("event=no_data_folder reason=%r", str(error))
        return None


def open_books(config: ServeConfig, folder: DataFolder | None) -> Accounts | Records | None:
    """Accounts if they are asked for, else a record of what is used, where there is room for one.

    Raises: BadConfig, StorageFailed: of accounts.
    """
    if folder is None:
        return None
    where = config.database or folder.root / DATABASE
    if config.accounts:
        return Accounts(where, folder.root, config.api, MonotonicClock(), time.time)
    try:
        return Records(where, time.time)
    except (BadConfig, StorageFailed) as error:
        logger.warning("event=no_records reason=%r", str(error))
        return None


async def serve_with(engine: EngineClient) -> ServedModel:
    """Join an engine that loads with the text side of its model, which loads meanwhile.

    Raises: BadModel, EngineFailed.
    """
    text = asyncio.to_thread(text_side, await engine.opened())
    tokenizer, chat_template, longest = await text
    await engine.started()
    tokenizer.check_vocabulary(engine.info.vocab_size)
    return ServedModel(
        model_id=engine.info.model_id,
        engine=engine,
        tokenizer=tokenizer,
        chat_template=chat_template,
        created=int(time.time()),
        longest_token_bytes=longest,
    )


def text_side(opened: Opened) -> tuple[Tokenizer, ChatTemplate | None, int]:
    """What turns text into tokens and back, and the most bytes that one token stands for.

    Raises: BadModel when the checkpoint has no usable tokenizer or template.
    """
    source = opened.tokenizer_source
    tokenizer = Tokenizer.from_source(source)
    chat_template = chat_template_for(source, opened.model_type)
    return tokenizer, chat_template, tokenizer.longest_token_bytes()


async def serve(
    config: ServeConfig,
    listening: Listening,
    models: list[NamedModel],
    first: EngineClient,
    say: Callable[[str], None],
) -> None:
    """Run until told to stop.  `first` is the engine of the first model, launched already; the
    others load after it, one by one.  `say` prints lines for people (progress, the ready line).

    Raises: BadConfig, BadModel, EngineFailed before the server is ready; nothing afterwards.
    """
    engines = [first]
    service: Service | None = None
    books: Accounts | Records | None = None

    async def close_engines() -> None:
        await asyncio.gather(*(engine.close(0) for engine in engines))

    try:
        folder = data_folder(config)
        books = open_books(config, folder)
        served = [await serve_with(first)]
        for model in models[1:]:
            engines.append(launch(model, say))
            served.append(await serve_with(engines[-1]))
        ids = [model.model_id for model in served]
        aliases = all_aliases(models, ids, config.aliases)
        keys = books if isinstance(books, Accounts) else listening.keys
        service = make_service(served, aliases, keys, config.api, books)
        offline = offline_in(folder, service, config)
        text = ready_text(config.host, listening.listener.getsockname()[1], service)
        admin: AbstractAsyncContextManager[None] = nullcontext()
        if listening.admin is not None and isinstance(books, Accounts):
            text += f"\n{admin_text(books, listening.admin)}"
            admin = admin_api(books, listening.admin, service.clock, service.metrics)
        server = server_for(
            service, config.shutdown_seconds, close_engines, offline, lambda: say(text)
        )
        give_back_memory()  # what was read of the vocabularies
        async with admin:
            await server.serve(sockets=[listening.listener])
    finally:
        listening.close()
        await close_engines()
        if service is not None:
            service.grammars.close()
        if books is not None:
            await books.close()


def all_aliases(
    models: list[NamedModel], model_ids: list[str], given: dict[str, Alias]
) -> dict[str, Alias]:
    """The operator's aliases, and the names under which the models were asked for.

    A model given as a path does not get the path as a name.
    """
    by_name = {model.name: model_id for model, model_id in zip(models, model_ids, strict=True)}
    names = {
        model.name: Alias(by_name[model.name])
        for model in models
        if MODEL_NAME.fullmatch(model.name)
        and Path(model.name).resolve() != Path(model.config.model_path)
        and by_name[model.name] != model.name
    }
    return names | {
        name: replace(alias, target=by_name.get(alias.target, alias.target))
        for name, alias in given.items()
    }


def _bits(precision: WeightPrecision | None) -> str:
    if precision is None:
        return ""
    kept = "" if precision.recovery is None else f", recovery {precision.recovery:.2%}"
    return f", {precision.bits_per_weight:.2f} bits each{kept}"


def tuning_text(tuning: str | None) -> str:
    return "not tuned" if tuning is None else f"tuned ({tuning})"


def ready_text(host: str, port: int, service: Service) -> str:
    """What a person needs once the server is ready: where, what, on which terms, and a curl."""
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    lines = [f"tribody is ready at {url}/v1"]
    for model in service.models.models:
        info = model.engine.info
        names = ", ".join([model.model_id, *service.models.aliases_of(model)])
        lines.append(
            f"  {names}: weights {info.weight_format} ({info.weight_bytes / 2**20:.0f} MiB"
            f"{_bits(info.precision)}), "
            f"KV {info.kv_format} {info.kv_budget_bytes / 2**20:.0f} MiB ({info.kv_limit}) "
            f"= {info.num_pages * info.page_size} tokens, "
            f"context {info.max_context_tokens}, speculation {info.speculation}, "
            f"{info.num_threads} threads ({info.isa}), {tuning_text(info.tuning)}, "
            f"loaded in {info.load_seconds:.1f} s"
        )
    if service.books is not None and (summary := service.books.summary()) is not None:
        lines.append(f"  {summary}")
    key = "" if service.keys is None else " -H 'Authorization: Bearer YOUR_KEY'"
    first = service.models.models[0].model_id
    body = (
        f'{{"model": "{first}", "stream": true, '
        '"messages": [{"role": "user", "content": "17 + 25"}]}'
    )
    lines.append("try:")
    lines.append(
        f"  curl -N {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
    )
    return "\n".join(lines)
