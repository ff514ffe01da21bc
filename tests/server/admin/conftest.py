"""One admin API for the tests of a module; those that spoil theirs start their own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.server.admin.admin_server import AdminServer, admin_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    with admin_server(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def http(server: AdminServer) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client
