"""A process that keeps books and says what was acknowledged to it, for tests that hurt it.

    python -m tests.faults.driver WHERE NODE NUM_REQUESTS [CHECKPOINT_PAGES]

It admits and settles requests by the shipped Writer and ledger, a few at a time, and writes one
line for each answer as soon as it has it:

    reserved ID          the reservation is on the disk
    settled ID MICRO     so is the charge
    refused KIND REASON  a commit failed; while the writer lives the same is tried again
    stopped              the writer says that nothing is written any more, and keeps to that
    closed KIND REASON   the database could not be opened
    done                 all were settled

It leaves without closing anything, as after a kill.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from tests.billing.ledger_cases import COUNTS, NOON_MS, YUAN, reservation
from tribody.billing import ledger
from tribody.billing.tariffs import Tariff
from tribody.core.errors import BadConfig, StorageFailed
from tribody.storage import sqlite
from tribody.storage.database import Database
from tribody.storage.writer import Writer

TENANT = "acme"
MONEY_MICRO = 1000 * YUAN
PRICES = """
title = "Plain"
currency = "CNY"
[[rule]]
id = "all"
title = "All models"
models = ["*"]
hit = 1
miss = 4
output = 16
"""
QUOTE = Tariff.parse(PRICES).find(
    model="r1",
    tenant_id=TENANT,
    at_ms=NOON_MS,
    prompt_tokens=COUNTS.prompt_tokens,
    is_batch=False,
)
AT_ONCE = 4  # requests; their works share commits
TRIES = 3000  # of a commit, 10 ms apart: who makes room has half a minute

Work = Callable[[Database], object]


def say(*words: object) -> None:
    """In one write, which a kill cannot cut in two."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def money(node_id: str) -> Work:
    def work(db: Database) -> None:
        ledger.use_tariff(db, PRICES, NOON_MS, "test")
        ledger.top_up(db, TENANT, MONEY_MICRO, "CNY", f"money of {node_id}", "", NOON_MS, "test")

    return work


def admission(request_id: str, node_id: str) -> Work:
    wanted = reservation(
        request_id,
        node_id=node_id,
        tenant_id=TENANT,
        quote=QUOTE,
        prompt_tokens=COUNTS.prompt_tokens,
    )
    return lambda db: ledger.reserve(db, wanted)


def settlement(request_id: str) -> Work:
    return lambda db: ledger.settle(db, request_id, COUNTS, "finished", NOON_MS + 1000)


class Stopped(Exception):
    """The writer writes nothing any more."""


def answers(writer: Writer, works: Sequence[Work]) -> list[object]:
    """Of all works, tried again until they are done."""
    waiting: dict[int, Future[object]] = {}
    done: dict[int, object] = {}
    for _ in range(TRIES):
        for index, work in enumerate(works):
            if index not in done:
                waiting[index] = _submit(writer, work)
        for index, future in waiting.items():
            try:
                done[index] = future.result()
            except StorageFailed as error:
                say("refused", type(error).__name__, error)
        waiting.clear()
        if len(done) == len(works):
            return [done[index] for index in range(len(works))]
        if writer.failure is not None:
            raise Stopped
        time.sleep(0.01)
    raise Stopped


def _submit(writer: Writer, work: Work) -> Future[object]:
    try:
        return writer.submit(work)
    except StorageFailed as error:
        failed: Future[object] = Future()
        failed.set_exception(error)
        return failed


def keep_books(writer: Writer, node_id: str, num_requests: int) -> None:
    answers(writer, [money(node_id)])
    for first in range(0, num_requests, AT_ONCE):
        ids = [f"{node_id}-{n}" for n in range(first, min(first + AT_ONCE, num_requests))]
        answers(writer, [admission(request_id, node_id) for request_id in ids])
        for request_id in ids:
            say("reserved", request_id)
        charges = answers(writer, [settlement(request_id) for request_id in ids])
        for request_id, charge in zip(ids, charges, strict=True):
            assert isinstance(charge, ledger.Charge)
            say("settled", request_id, charge.micro)


def nothing(_db: Database) -> None:
    """Comes back only if the checkpoint after the last commit did not fail."""


def main(where: str, node_id: str, num_requests: str, checkpoint_pages: str = "8192") -> None:
    sqlite.CHECKPOINT_PAGES = int(checkpoint_pages)
    try:
        writer = Writer(where if "://" in where else Path(where))
    except (BadConfig, StorageFailed) as error:
        say("closed", type(error).__name__, error)
        return
    try:
        keep_books(writer, node_id, int(num_requests))
        answers(writer, [nothing])
        say("done")
    except Stopped:
        for _ in range(3):  # not once does it change its mind
            try:
                writer.submit(money(node_id)).result()
            except StorageFailed:
                continue
            say("went on")
            return
        say("stopped")


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)
