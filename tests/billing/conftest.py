"""Whatever is asked of a ledger in a database is asked of both kinds."""

from __future__ import annotations

import pytest

from tests.billing import ledger_cases
from tribody.storage.opening import open_database


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "db" in metafunc.fixturenames:
        metafunc.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def database_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `ledger_cases.database` opens."""
    if getattr(request, "param", "sqlite") == "postgresql":
        url = request.getfixturevalue("postgres_accounts")
        monkeypatch.setattr(ledger_cases, "open_database", lambda _where: open_database(url))
