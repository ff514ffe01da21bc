"""What the ledger adds to a request: admission and settlement beside two bare commits.

    .venv/bin/python bench/ledger_cost.py [--rate N] [--seconds N] [--rounds N] [--folder DIR] …

Each round measures three things in turn, in one database on one disk, for `--seconds` each:

  bare    two commits, each of one updated row, by the very thread that asks
  shared  the same two works through the writing thread
  ledger  quote, reserve, wait, settle through the writing thread

All at `--rate` requests a second in an open loop: requests come when they come (exponential gaps,
seeded), however long earlier ones take;
a request's time is that of its admission plus that of its settlement, without the wait between
them.  `synchronous=FULL`, checkpoints included, 20 tenants with caps and a free allowance, on top
of `--filled` earlier requests.  One JSON line for each round and thing, then the sums.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

from machine import start_record
from measurements import quantile
from tribody.billing import ledger
from tribody.billing.pricing import worst_case
from tribody.billing.records import Reservation
from tribody.billing.tariffs import Tariff
from tribody.core.metering import Counts
from tribody.core.principal import Limits
from tribody.storage.database import Database
from tribody.storage.opening import open_database
from tribody.storage.writer import Writer

PRICES = """
title = "Bench"
currency = "CNY"
calendar = "china"

[band.day]
days = ["workdays"]
hours = ["09:00-12:00", "14:00-18:00"]
[band.rest]
all_but = ["day"]

[free.trial]
output = 1_000_000

[[rule]]
id = "day"
models = ["*"]
band = "day"
hit = "0.2"
miss = 2
output = 8
free = "trial"

[[rule]]
id = "rest"
models = ["*"]
band = "rest"
hit = "0.1"
miss = 1
output = 4
"""
TENANTS = 20
CAPS = Limits(tokens_per_day=10**11, micro_per_month=10**14)
COUNTS = Counts(prompt_tokens=1200, cached_tokens=800, completion_tokens=300, reasoning_tokens=90)
SEED = 20261122

Once = Callable[[], Awaitable[float]]  # one request; the seconds that it had to wait


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hold", type=float, default=0.05, help="seconds from admission to end")
    parser.add_argument(
        "--busy", type=float, default=0.0, help="share of the loop's thread at work"
    )
    parser.add_argument("--filled", type=int, default=5000, help="requests in the ledger before")
    parser.add_argument("--folder", type=Path, help="where the database is made")
    parser.add_argument("--json", type=Path, help="append the lines to this file too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for record in measure(Path(folder) / "accounts.db", options):
            line = json.dumps(record)
            print(line, flush=True)
            if options.json is not None:
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")


def measure(path: Path, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    yield {"record": "run", **start_record(0.0)}
    tariff = fill(path, options.filled)
    writer = Writer(path)
    bare = open_database(path)
    randomness = random.Random(SEED)
    things: dict[str, Once] = {
        "bare": in_place(bare, options.hold),
        "shared": shared(writer, options.hold),
        "ledger": Requests(writer, tariff, options.hold),
    }
    samples: dict[str, list[list[float]]] = {name: [] for name in things}
    try:
        for round_index in range(-1, options.rounds):  # the first one warms up
            for name, once in things.items():
                waited = uvloop.run(open_loop(once, options, randomness))  # the server's loop
                if round_index >= 0:
                    samples[name].append(waited)
                    yield {"record": "round", "round": round_index, "what": name, **spread(waited)}
    finally:
        writer.close()
        bare.close()
    yield from sums(samples)


def sums(samples: dict[str, list[list[float]]]) -> Iterator[dict[str, object]]:
    whole = {name: [one for part in parts for one in part] for name, parts in samples.items()}
    for name, waited in whole.items():
        yield {"record": "all", "what": name, **spread(waited)}
    for name in ("shared", "ledger"):
        for share in (0.5, 0.99):
            each = [
                1e3 * (quantile(ours, share) - quantile(theirs, share))
                for ours, theirs in zip(samples[name], samples["bare"], strict=True)
            ]
            yield {
                "record": "added",
                "what": name,
                "quantile": share,
                "ms": round(
                    1e3 * (quantile(whole[name], share) - quantile(whole["bare"], share)), 3
                ),
                "median_of_rounds_ms": round(statistics.median(each), 3),
                "rounds_ms": [round(one, 3) for one in each],
            }


def spread(waited: list[float]) -> dict[str, object]:
    return {
        "requests": len(waited),
        **{
            f"p{share * 100:g}_ms": round(1e3 * quantile(waited, share), 3)
            for share in (0.5, 0.9, 0.99, 0.999)
        },
    }


def fill(path: Path, count: int) -> Tariff:
    db = open_database(path)
    with db.transaction():
        tariff = ledger.use_tariff(db, PRICES, now_ms(), "bench")
        for tenant in range(TENANTS):
            name = f"tenant-{tenant}"
            ledger.top_up(db, name, 10**12, "CNY", "money", "", now_ms(), "bench")
        db.run("CREATE TABLE bare (id INTEGER PRIMARY KEY, number INTEGER NOT NULL) STRICT")
        db.run("INSERT INTO bare VALUES (1, 0), (2, 0)")
        for number in range(count):
            reservation = request(f"filled-{number:08}", tariff, random.Random(number))
            ledger.reserve(db, reservation)
            ledger.settle(db, reservation.request_id, COUNTS, "finished", now_ms())
    db.close()
    return tariff


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def request(request_id: str, tariff: Tariff, randomness: random.Random) -> Reservation:
    """What the server does before it asks the ledger."""
    tenant = f"tenant-{randomness.randrange(TENANTS)}"
    at_ms = now_ms()
    quote = tariff.find(
        model="model", tenant_id=tenant, at_ms=at_ms, prompt_tokens=1200, is_batch=False
    )
    return Reservation(
        request_id=request_id,
        node_id="node",
        tenant_id=tenant,
        key_id=f"key-{randomness.randrange(3)}",
        model="model",
        route="chat",
        streamed=True,
        at_ms=at_ms,
        prompt_tokens=1200,
        quote=quote,
        worst_micro=worst_case(quote, 1200, 1000),
        worst_tokens=2200,
        tenant_limits=CAPS,
        key_limits=CAPS,
    )


def in_place(db: Database, hold: float) -> Once:
    async def once() -> float:
        waited = committed(db, 1)
        await asyncio.sleep(hold)
        return waited + committed(db, 2)

    return once


def committed(db: Database, row: int) -> float:
    start = time.perf_counter()
    with db.transaction():
        touch(db, row)
    return time.perf_counter() - start


def touch(db: Database, row: int) -> None:
    db.run("UPDATE bare SET number = number + 1 WHERE id = ?", (row,))


def shared(writer: Writer, hold: float) -> Once:
    async def once() -> float:
        start = time.perf_counter()
        await writer.run(lambda db: touch(db, 1))
        waited = time.perf_counter() - start
        await asyncio.sleep(hold)
        start = time.perf_counter()
        await writer.run(lambda db: touch(db, 2))
        return waited + time.perf_counter() - start

    return once


class Requests:
    """One request of the ledger after another."""

    def __init__(self, writer: Writer, tariff: Tariff, hold: float) -> None:
        self._writer, self._tariff, self._hold = writer, tariff, hold
        self._randomness = random.Random(SEED)

    async def __call__(self) -> float:
        request_id = f"{self._randomness.getrandbits(128):032x}{time.perf_counter_ns()}"
        start = time.perf_counter()
        reservation = request(request_id, self._tariff, self._randomness)
        await self._writer.run(lambda db: ledger.reserve(db, reservation))
        waited = time.perf_counter() - start
        await asyncio.sleep(self._hold)
        start = time.perf_counter()
        ended_ms = now_ms()
        await self._writer.run(
            lambda db: ledger.settle(db, request_id, COUNTS, "finished", ended_ms)
        )
        return waited + time.perf_counter() - start


async def open_loop(
    once: Once, options: argparse.Namespace, randomness: random.Random
) -> list[float]:
    """Starts requests at the rate; the loop's thread may have other work, as a server has."""
    tasks: list[asyncio.Task[float]] = []
    busy = asyncio.create_task(other_work(options.busy)) if options.busy else None
    begin = at = time.perf_counter()
    while at < begin + options.seconds:
        await asyncio.sleep(max(at - time.perf_counter(), 0.0))
        tasks.append(asyncio.ensure_future(once()))
        at += randomness.expovariate(options.rate)
    waited = await asyncio.gather(*tasks)
    if busy is not None:
        busy.cancel()
    return list(waited)


async def other_work(share: float) -> None:
    """Keeps the loop's thread at work for 2 ms at a time, for so much of the time."""
    while True:
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass
        await asyncio.sleep(0.002 * (1 - share) / share)


if __name__ == "__main__":
    main()
