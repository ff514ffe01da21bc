"""A model loaded for one command: the server's service around an engine process, without HTTP.

`chat` and `generate` run the same validation, templates and continuous batching as the server,
and survive an engine crash as it does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tribody.core.api_settings import ApiSettings
from tribody.core.config import EngineConfig
from tribody.engine.client import EngineClient
from tribody.server.serve import make_service, serve_with
from tribody.server.service import Service

LOCAL_API = ApiSettings(sampling="openai")


@asynccontextmanager
async def local_service(config: EngineConfig) -> AsyncIterator[Service]:
    """Start the engine, give the service, end the engine.

    Raises: BadModel, EngineFailed.
    """
    engine = EngineClient.launch(config)
    try:
        # Who runs a command says how to sample, and no contract stands in his way.
        yield make_service([await serve_with(engine)], {}, None, LOCAL_API)
    finally:
        await engine.close(0)
