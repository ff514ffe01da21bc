"""A database with nobody in it, and who changes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tribody.storage.database import Database
from tribody.storage.opening import open_database


@pytest.fixture
def db() -> Iterator[Database]:
    database = open_database(":memory:")
    yield database
    database.close()
