"""The ledger's tests once more, on a server."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import give
from tests.billing.test_ledger import *  # noqa: F403 - every test of it, with the `db` below


@pytest.fixture  # type: ignore[no-redef]
def db(postgres_accounts):
    give(postgres_accounts, granted=3000, topped_up=10_000)
    return postgres_accounts
