"""A server with accounts for tests: a tenant, its key, a price list, and what the ledger says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.server.scripted import OPENAI, RunningServer, ScriptedEngine, run_server, scripted_model
from tribody.billing import ledger
from tribody.billing.tariff_store import use_tariff
from tribody.core.clock import MonotonicClock
from tribody.core.principal import NO_LIMITS, Limits
from tribody.server.accounts import DATABASE, Accounts
from tribody.storage.opening import open_database
from tribody.tenancy import store
from tribody.tenancy.keys import read_secret
from tribody.tenancy.records import NewKey, Tenant

PRICES = """
title = "Tests"
currency = "CNY"
time_zone = "Asia/Shanghai"

[[rule]]
id = "all"
models = ["*"]
from = 2020-01-01T00:00:00+08:00
hit = "0.5"
miss = 2
output = 8
batch_factor = "1/2"
"""
HIT, MISS, OUTPUT = 500_000, 2_000_000, 8_000_000  # the same, micro-yuan per million tokens
YUAN = 1_000_000  # micro-yuan


def charge(hit: int, miss: int, output: int, *, is_batch: bool = False) -> int:
    """What so many tokens cost by PRICES, rounded half to even."""
    numerator = hit * HIT + miss * MISS + output * OUTPUT
    return round_half_even(numerator, 2_000_000 if is_batch else 1_000_000)


def round_half_even(numerator: int, denominator: int) -> int:
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))


@dataclass
class Books:
    """A data folder with accounts in it, before, while and after a server has it."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.db = open_database(self.folder / DATABASE)
        self.secret = read_secret(self.folder / "secret")
        self._count = 0

    def now_ms(self) -> int:
        return int(time.time() * 1e3)

    def use(self, prices: str) -> None:
        with self.db.transaction():
            use_tariff(self.db, prices, self.now_ms(), "test")

    def add_tenant(self, tenant: str = "acme", yuan: int = 100, **fields: object) -> None:
        record = Tenant(id=tenant, **fields)  # type: ignore[arg-type]
        store.add_tenant(self.db, record, at_ms=self.now_ms(), who="test")
        if yuan:
            self.top_up(tenant, yuan * YUAN)

    def top_up(self, tenant: str, micro: int) -> None:
        self._count += 1
        with self.db.transaction():
            ledger.top_up(
                self.db, tenant, micro, "CNY", f"pay-{self._count}", "", self.now_ms(), "test"
            )

    def add_key(self, tenant: str = "acme", limits: Limits = NO_LIMITS, **fields: object) -> str:
        """The key itself."""
        new = NewKey(tenant_id=tenant, limits=limits, **fields)  # type: ignore[arg-type]
        return store.add_key(self.db, self.secret, new, at_ms=self.now_ms(), who="test")[1]

    def usage(self) -> list[dict[str, object]]:
        """The usage records, in order."""
        names = (
            "request_id",
            "tenant_id",
            "model",
            "route",
            "streamed",
            "is_batch",
            "prompt_tokens",
            "cached_tokens",
            "completion_tokens",
            "reasoning_tokens",
            "outcome",
            "charged_micro",
        )
        rows = self.db.rows(f"SELECT {', '.join(names)} FROM usage ORDER BY sequence")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def balance(self, tenant: str = "acme") -> ledger.Balance:
        [found] = ledger.balances(self.db, tenant)
        return found

    def accounts(self, wall_seconds: Callable[[], float] = time.time) -> Accounts:
        return Accounts(self.folder / DATABASE, self.folder, OPENAI, MonotonicClock(), wall_seconds)

    def serve(self, **options: object) -> tuple[RunningServer, ScriptedEngine]:
        """A server in this process around the scripted engine."""
        model, engine = scripted_model()
        running = run_server([(model, engine)], books=self.accounts(), **options)  # type: ignore[arg-type]
        return running, engine


def client(running: RunningServer, key: str) -> httpx2.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=running.url, timeout=10.0, verify=False, headers=headers)
