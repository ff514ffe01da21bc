"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings

from tests.storage.cluster import WHEEL, Cluster, empty
from tribody.loading import hub
from tribody.loading.download import default_cache_dir
from tribody.storage.opening import open_database

# A busy machine is no defect of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


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
def postgres_url(postgres_cluster: Cluster) -> str:
    """A new schema on that server: made in milliseconds, and as good as a database of its own."""
    return postgres_cluster.create_schema(f"test_{uuid4().hex}")


@pytest.fixture(scope="session")
def postgres_tables(postgres_cluster: Cluster) -> str:
    url = postgres_cluster.create_schema("accounts")
    open_database(url).close()
    return url


@pytest.fixture
def postgres_accounts(postgres_tables: str) -> str:
    """The URL of a database there with every table as it was made; for one test at a time."""
    empty(postgres_tables)
    return postgres_tables


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where `open_database` makes a new database: once of each kind."""
    if request.param == "sqlite":
        return tmp_path / "accounts.db"
    url: str = request.getfixturevalue("postgres_url")
    return url
