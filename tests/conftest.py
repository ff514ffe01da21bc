"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest

from tests.storage.cluster import WHEEL, Cluster
from tribody.loading import hub
from tribody.loading.download import default_cache_dir


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The SmolLM2 GGUF file in the model cache; `make test` fetches it for the `weights` tests."""
    cache_dir = default_cache_dir(os.environ)
    return hub.resolve("smollm2", cache_dir=cache_dir, progress=None)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """A PostgreSQL server that the tests start.  CI never goes without."""
    missing = [name for name in ("psycopg", WHEEL) if find_spec(name) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"{' and '.join(missing)} of requirements/test.txt not installed")
    cluster = Cluster()
    cluster.start()
    yield cluster
    cluster.close()


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """A new database on that server."""
    name = f"test_{uuid4().hex}"
    yield postgres_cluster.create(name)
    postgres_cluster.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where `open_database` makes a new database: once of each kind."""
    if request.param == "sqlite":
        return tmp_path / "accounts.db"
    url: str = request.getfixturevalue("postgres_url")
    return url
