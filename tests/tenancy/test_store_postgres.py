"""The tests of tenants and keys in a database once more, on a server."""

from __future__ import annotations

import pytest

from tests.tenancy.test_store import *  # noqa: F403 - every test of it, with the `db` below
from tribody.storage.opening import open_database


@pytest.fixture
def db(postgres_accounts):
    database = open_database(postgres_accounts)
    yield database
    database.close()
