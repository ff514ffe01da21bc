"""One scripted server for most tests of this folder; tests that spoil theirs start their own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.server.scripted import RunningServer, client_of, run_server, scripted_model


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RunningServer]:
    running = run_server([scripted_model()], aliases={"deepseek-chat": "scripted"})
    yield running
    running.stop()


@pytest.fixture
def running(shared_server: RunningServer) -> Iterator[RunningServer]:
    """The shared server with a fresh script."""
    shared_server.engine.reset()
    yield shared_server
    shared_server.engine.reset()


@pytest.fixture
def http(running: RunningServer) -> Iterator[httpx2.Client]:
    with client_of(running) as client:
        yield client
