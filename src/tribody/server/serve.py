"""The server's life: find its address, load the models, answer, drain, end.

SIGTERM or Ctrl-C drains: /readyz turns 503, new work is refused with a 503 that clients may retry,
what is in flight finishes within `shutdown_seconds`.  A second signal stops at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import uvicorn

from tribody.core.clock import MonotonicClock
from tribody.core.config import EngineConfig
from tribody.core.engine_info import WeightPrecision
from tribody.core.errors import BadConfig
from tribody.engine.client import EngineClient
from tribody.loading.checkpoint import open_checkpoint
from tribody.server.app import create_app
from tribody.server.auth import KeyFile
from tribody.server.http_protocol import BoundedProtocol
from tribody.server.metrics import Metrics
from tribody.server.models_table import (
    MODEL_NAME,
    Alias,
    Engine,
    ModelsTable,
    ServedModel,
    longest_token_bytes,
)
from tribody.server.service import Service
from tribody.text.chat_template import chat_template_for
from tribody.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

CUT_SECONDS = 2  # after the drain's time is up: for the last error events to leave
PORTS_TRIED = 100  # when a port is taken, how many after it are tried for the message


@dataclass(frozen=True)
class ServeConfig:
    """How the server listens and ends; models come as a list of `EngineConfig`."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key_file: Path | None = None
    shutdown_seconds: float = 30.0
    aliases: dict[str, Alias] = field(default_factory=dict)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int, *, has_keys: bool) -> socket.socket:
    """Take the address before anything is loaded, so that a clash shows at once.

    Raises: BadConfig when the host is not this machine's own and no keys guard it, when the
    address cannot be used, or when the port is taken (the message names the next free one).
    """
    if not has_keys and not is_loopback(host):
        raise BadConfig(
            f"--host {host}: other machines could use the server without a key; "
            "add --api-key-file FILE, or listen on 127.0.0.1"
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError) as error:
        raise BadConfig(f"--host {host} --port {port}: not a usable address: {error}") from error
    try:
        return _listen(family, address)
    except OSError as error:
        if port == 0:
            raise BadConfig(f"--host {host}: cannot listen: {error}") from error
        free = _next_free_port(family, address[0], port)
        advice = f"; port {free} is free: --port {free} (make serve PORT={free})" if free else ""
        raise BadConfig(f"--port {port} cannot be used: {error.strerror}{advice}") from error


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def _next_free_port(family: int, host: object, taken: int) -> int | None:
    for port in range(taken + 1, min(taken + PORTS_TRIED, 65535) + 1):
        try:
            _listen(family, (host, port)).close()
        except OSError:
            continue
        return port
    return None


class DrainingServer(uvicorn.Server):
    """uvicorn's loop with our order of shutting down."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        shutdown_seconds: float,
        cut: Callable[[], Awaitable[None]],
    ) -> None:
        """`cut` ends the engines, which ends every running answer with an error event."""
        super().__init__(config)
        self._service = service
        self._shutdown_seconds = shutdown_seconds
        self._cut = cut
        self._drain_ends: float | None = None

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
        if self._service.in_flight == 0:
            self.should_exit = True
        elif now >= self._drain_ends:
            logger.warning("event=drain_cut in_flight=%d", self._service.in_flight)
            await self._cut()
            self.should_exit = True


def server_for(
    service: Service, shutdown_seconds: float, cut: Callable[[], Awaitable[None]]
) -> DrainingServer:
    """A server around a service, not yet listening; run it with `serve(sockets=[bind(…)])`."""
    config = uvicorn.Config(
        create_app(service),
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CUT_SECONDS,
    )
    return DrainingServer(config, service, shutdown_seconds, cut)


def make_service(
    models: list[ServedModel], aliases: dict[str, Alias], keys: KeyFile | None
) -> Service:
    table = ModelsTable(models, aliases)
    return Service(
        models=table,
        metrics=Metrics(table),
        keys=keys,
        clock=MonotonicClock(),
        wall_seconds=time.time,
    )


def served_model(path: Path, engine: Engine) -> ServedModel:
    """Join an engine with the text side of the same checkpoint.

    Raises: BadModel when the checkpoint has no usable tokenizer.
    """
    checkpoint = open_checkpoint(path)
    try:
        source = checkpoint.tokenizer_source
    finally:
        checkpoint.close()
    tokenizer = Tokenizer.from_source(source)
    return ServedModel(
        model_id=engine.info.model_id,
        engine=engine,
        tokenizer=tokenizer,
        chat_template=chat_template_for(source, engine.info.model_type),
        created=int(time.time()),
        longest_token_bytes=longest_token_bytes(tokenizer),
    )


@dataclass(frozen=True)
class Listening:
    """The address is taken and the keys are read: what can go wrong early has gone right."""

    listener: socket.socket
    keys: KeyFile | None


def listen(config: ServeConfig) -> Listening:
    """Take the address and read the keys, before anything is fetched or loaded.

    Raises: BadConfig.
    """
    keys = None if config.api_key_file is None else KeyFile.read(config.api_key_file)
    return Listening(bind(config.host, config.port, has_keys=keys is not None), keys)


@dataclass(frozen=True)
class NamedModel:
    """A model to serve and what its user calls it, such as `smollm2`."""

    name: str
    config: EngineConfig


async def serve(
    config: ServeConfig, listening: Listening, models: list[NamedModel], say: Callable[[str], None]
) -> None:
    """Run until told to stop.  `say` prints lines for people (progress, the ready line).

    Raises: BadConfig, BadModel, EngineFailed before the server is ready; nothing afterwards.
    """
    engines: list[EngineClient] = []

    async def close_engines() -> None:
        await asyncio.gather(*(engine.close(0) for engine in engines))

    try:
        served = []
        for model in models:
            engine = await EngineClient.start(model.config, progress=_LoadingLines(model.name, say))
            engines.append(engine)
            served.append(served_model(Path(model.config.model_path), engine))
        ids = [model.model_id for model in served]
        aliases = all_aliases(models, ids, config.aliases)
        service = make_service(served, aliases, listening.keys)
        server = server_for(service, config.shutdown_seconds, close_engines)
        say(ready_text(config.host, listening.listener.getsockname()[1], service))
        await server.serve(sockets=[listening.listener])
    finally:
        listening.listener.close()
        await close_engines()


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


class _LoadingLines:
    """Says how far a load is, at most every `EVERY_SECONDS`: small models load in silence."""

    EVERY_SECONDS = 5.0

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name = name
        self._say = say
        self._clock = MonotonicClock()
        self._last = self._clock.now()
        say(f"loading {name}")

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now = self._clock.now()
        if now - self._last >= self.EVERY_SECONDS and total_bytes:
            self._last = now
            self._say(f"loading {self._name}: {done_bytes / total_bytes:.0%}")


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
