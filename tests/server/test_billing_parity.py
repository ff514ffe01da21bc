"""Every way to ask, every way to end: what is recorded is what the engine counted, and its price.

A cell of the matrix is a route, streamed or plain, and an end.  After each the usage records that
are new are compared with the engine's own last word on every request that it got meanwhile, the
charge with the price list, the balance with the charges.  No cell is empty: where a route has no
stream, its cells say what it does with the wish for one.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.bookkeeping import YUAN, charge
from tests.server.parity import PATIENCE_SECONDS, ROUTES, Parity, Route, Told, events_of
from tribody.billing import ledger
from tribody.server import batch_lines, embeddings, limits
from tribody.server.generation import Generation
from tribody.server.routes import ROUTES as SERVED

ENDS = ("ok", "4xx", "engine error", "disconnect", "timeout", "engine restart")
FREE = ("error", "restart", "drain", "refused")
FILLER = "It begins with words that are in the cache the second time. " * 3
SAYS = FILLER + "[[say: " + "some words of an answer " * 3 + "]]"
FAILS = FILLER + "[[say: some words]][[fail]]"
LONG = FILLER + "[[repeat: 3000 x]]"
MOST = 400


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parity]:
    made = Parity(tmp_path_factory.mktemp("parity") / "data", rate=200)
    yield made
    made.close()
    report = ledger.verify(made.books.db)
    assert report.problems == []
    assert ledger.open_reservations(made.books.db) == []


@dataclass
class Cell:
    """One cell, from before it to after it."""

    parity: Parity
    route: Route
    streamed: bool

    def __post_init__(self) -> None:
        self.rows_before = len(self.parity.books.usage())
        self.first = len(self.parity.engine.submitted)
        self.balance_before = self.parity.books.balance().topped_up_micro

    def http(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.parity.key}"}
        return httpx2.Client(base_url=self.parity.url, timeout=30.0, verify=False, headers=headers)

    def body(self, text: str, most: int = MOST, **fields: Any) -> dict[str, Any]:
        more = {"stream": True, **self.route.more} if self.streamed else {}
        return {"model": "scripted", **self.route.body(text, most), **more, **fields}

    def ask(self, text: str, **fields: Any) -> httpx2.Response:
        with self.http() as http:
            return http.post(self.route.path, json=self.body(text, **fields))

    def told(self, answer: httpx2.Response) -> Told:
        """What the client is told."""
        if not self.streamed:
            return self.route.told(answer.json())
        assert self.route.told_last is not None
        return self.route.told_last(events_of(answer.text))

    def begun(self) -> list[str]:
        """The engine's requests of this cell."""
        return self.parity.engine.submitted[self.first :]

    def rows(self, count: int) -> list[dict[str, Any]]:
        """The usage records of this cell, when there are as many."""
        books = self.parity.books
        self.parity.until(lambda: len(books.usage()) >= self.rows_before + count, "recorded")
        self.parity.until(lambda: not self.parity.engine._active, "the engine has nothing left")
        rows: list[dict[str, Any]] = books.usage()[self.rows_before :]
        assert len(rows) == count, rows
        return rows

    def check(self, *outcomes: str) -> list[dict[str, Any]]:
        """Records of these outcomes, in order, with the engine's counts and the list's prices."""
        rows = self.rows(len(outcomes))
        assert [row["outcome"] for row in rows] == list(outcomes)
        engine = self.parity.engine
        counted = sum((Told.of_engine(engine.usages[r]) for r in self.begun()), Told())
        assert sum((Told.of_row(row) for row in rows), Told()) == counted
        due = 0
        for row in rows:
            assert (row["route"], row["tenant_id"]) == (self.route.label, "acme")
            assert row["streamed"] == (self.streamed and self.route.told_last is not None)
            due_here = price(Told.of_row(row), is_batch=bool(row["is_batch"]))
            assert row["charged_micro"] == (0 if row["outcome"] in FREE else due_here)
            due += row["charged_micro"]
        balance = self.parity.books.balance()
        assert balance.topped_up_micro == self.balance_before - due
        assert balance.held_micro == 0
        return rows

    def check_nothing(self) -> None:
        """Nothing reached the engine, nothing was recorded."""
        assert self.begun() == []
        assert self.rows(0) == []
        assert self.parity.books.balance().topped_up_micro == self.balance_before


def asking(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# --- the ends, over HTTP ---------------------------------------------------------------------


def ends_ok(cell: Cell) -> None:
    """Twice, so that the second finds the first's pages; the client is told the same."""
    told = []
    for _ in range(2):
        answer = cell.ask(SAYS)
        assert answer.status_code == 200, answer.text
        told.append(cell.told(answer))
    rows = cell.check("finished", "finished")
    assert [Told.of_row(row) for row in rows] == told
    assert cell.route.name == "embeddings" or told[1].cached > 0
    assert told[0].prompt > len(FILLER)


def ends_refused(cell: Cell) -> None:
    """Before the engine sees it."""
    answer = cell.ask(SAYS, **cell.route.wrong)
    assert answer.status_code == 400, answer.text
    cell.check_nothing()


def ends_with_an_error(cell: Cell) -> None:
    if cell.route.name == "embeddings":
        with cell.parity.failing():
            asked = asking(lambda: cell.ask(LONG))
            cell.parity.until(lambda: len(cell.begun()) == 2, "both inputs are submitted")
        asked.join()
    else:
        answer = cell.ask(FAILS)
        assert answer.status_code == 500 or "error" in answer.text
    (row,) = cell.check("error")
    assert row["charged_micro"] == 0
    assert row["prompt_tokens"] > 0


def in_prefill(cell: Cell) -> None:
    """The first input has been computed, of the second a chunk."""

    def holds() -> bool:
        first = [cell.parity.engine.usages.get(r) for r in cell.begun()[:1]]
        running = cell.parity.engine.stats.running == 1
        return bool(first and first[0]) and len(cell.begun()) == 2 and running

    cell.parity.until(holds, "a prompt is computed")


def mid_answer(cell: Cell) -> None:
    if cell.route.name == "embeddings":
        in_prefill(cell)
    else:
        enough = 9  # tokens of the answer
        cell.parity.until(
            lambda: any(usage.completion_tokens > enough for usage in cell.parity.known()),
            "an answer has begun",
        )


def ends_by_leaving(cell: Cell) -> None:
    """In the middle: what was computed until the engine heard of it is paid for."""
    with connected(cell):
        mid_answer(cell)
    (row,) = cell.check("disconnect")
    assert row["charged_micro"] > 0
    if cell.route.name == "embeddings":
        assert row["prompt_tokens"] == len("short"), "the second input was not computed"
    else:
        assert 9 < row["completion_tokens"] < MOST


@contextmanager
def connected(cell: Cell) -> Iterator[None]:
    """A long request whose client closes its connection at the block's end."""
    body = json.dumps(cell.body(LONG)).encode()
    host, port = cell.parity.url.removeprefix("http://").split(":")
    head = (
        f"POST {cell.route.path} HTTP/1.1\r\nhost: {host}\r\n"
        f"authorization: Bearer {cell.parity.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        yield


def ends_by_waiting(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """All seats are taken for longer than a request may wait to begin."""
    hurry(monkeypatch)
    seats = cell.parity.take_seats()
    answer = cell.ask(SAYS)
    cell.parity.leave_seats(seats)
    assert answer.status_code == 503 or "error" in answer.text
    (row,) = cell.check("timeout")
    assert (Told.of_row(row), row["charged_micro"]) == (Told(), 0)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "START_SECONDS", 0.02)
    monkeypatch.setattr(Generation.pieces, "__defaults__", (0.01,))
    monkeypatch.setattr(embeddings, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(batch_lines, "RETRY_SECONDS", 0.02)


def ends_after_a_restart(cell: Cell) -> None:
    """The engine is killed in the middle; the answer goes on and is counted once."""
    restarts = cell.parity.engine.restarts
    answers: list[httpx2.Response] = []
    asked = asking(lambda: answers.append(cell.ask(LONG, most=120)))
    mid_answer(cell)
    cell.parity.kill()
    asked.join()
    (row,) = cell.check("finished")
    assert cell.parity.engine.restarts == restarts + 1
    assert cell.told(answers[0]) == Told.of_row(row)
    assert row["completion_tokens"] == (0 if cell.route.name == "embeddings" else 120)


# --- the ends, of a batch's lines ------------------------------------------------------------

BATCHES = Route(
    "batches", "/v1/batches", "chat",
    lambda text, most: {"messages": [{"role": "user", "content": text}], "max_tokens": most},
    ROUTES[0].told, None, {"max_tokens": -1}, {},
)  # fmt: skip


class Batch:
    """One that has been sent."""

    def __init__(self, cell: Cell, bodies: list[dict[str, Any]]) -> None:
        self._cell = cell
        url = "/v1/chat/completions"
        lines = [
            {"custom_id": f"line {i}", "method": "POST", "url": url, "body": body}
            for i, body in enumerate(bodies)
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        with cell.http() as http:
            file = http.post(
                "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}
            ).json()
            asked = {"input_file_id": file["id"], "endpoint": url, "completion_window": "24h"}
            self._id = http.post("/v1/batches", json=asked).json()["id"]

    def cancel(self) -> None:
        with self._cell.http() as http:
            assert http.post(f"/v1/batches/{self._id}/cancel").status_code == 200

    def ended(self) -> tuple[str, list[dict[str, Any]]]:
        """Its status, and the answers of its lines, the errors among them."""
        with self._cell.http() as http:
            ends = time.monotonic() + PATIENCE_SECONDS
            while True:
                batch = http.get(f"/v1/batches/{self._id}").json()
                if batch["status"] in ("completed", "cancelled", "failed", "expired"):
                    break
                assert time.monotonic() < ends, batch
                time.sleep(0.01)
            files = [batch.get("output_file_id"), batch.get("error_file_id")]
            texts = [http.get(f"/v1/files/{f}/content").text for f in files if f]
        return batch["status"], [json.loads(line) for t in texts for line in t.splitlines()]


def batch_ends(cell: Cell, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if end == "ok":
        status, lines = Batch(cell, [cell.body(SAYS)] * 2).ended()
        assert status == "completed"
        told = [cell.route.told(line["response"]["body"]) for line in lines]
        rows = cell.check("finished", "finished")
        assert sorted(map(repr, told)) == sorted(repr(Told.of_row(row)) for row in rows)
        assert {row["is_batch"] for row in rows} == {1}
    elif end == "4xx":
        _, (line,) = Batch(cell, [cell.body(SAYS, **cell.route.wrong)]).ended()
        assert line["response"]["status_code"] == 400
        cell.check_nothing()
    elif end == "engine error":
        _, (line,) = Batch(cell, [cell.body(FAILS)]).ended()
        assert line["response"]["status_code"] == 500
        (row,) = cell.check("error")
        assert row["prompt_tokens"] > 0
    elif end == "disconnect":  # nobody is connected: the batch is cancelled
        batch = Batch(cell, [cell.body(LONG)])
        mid_answer(cell)
        batch.cancel()
        assert batch.ended()[0] == "cancelled"
        (row,) = cell.check("disconnect")
        assert row["completion_tokens"] > 9
    elif end == "timeout":  # the line is tried again until it runs
        with monkeypatch.context() as hurried:
            hurry(hurried)
            seats = cell.parity.take_seats()
            batch = Batch(cell, [cell.body(SAYS)])
            books = cell.parity.books
            cell.parity.until(lambda: len(books.usage()) > cell.rows_before, "it has timed out")
        cell.parity.leave_seats(seats)
        assert batch.ended()[0] == "completed"
        num_timeouts = len(books.usage()) - cell.rows_before - 1
        assert num_timeouts > 0
        rows = cell.check(*["timeout"] * num_timeouts, "finished")
        assert [row["charged_micro"] > 0 for row in rows] == [False] * num_timeouts + [True]
    else:
        batch = Batch(cell, [cell.body(LONG, most=120)])
        mid_answer(cell)
        cell.parity.kill()
        _, (line,) = batch.ended()
        (row,) = cell.check("finished")
        assert cell.route.told(line["response"]["body"]) == Told.of_row(row)


def batch_is_asked_to_stream(cell: Cell) -> None:
    """Batches do not stream: such a file is refused as a whole."""
    status, lines = Batch(cell, [cell.body(SAYS, stream=True)]).ended()
    assert (status, lines) == ("failed", [])
    cell.check_nothing()


# --- the matrix ------------------------------------------------------------------------------

CELLS = [
    pytest.param(
        route,
        streamed,
        end,
        id=f"{route.name}-{'stream' if streamed else 'plain'}-{end}",
        # An engine takes a second to come back, so only chat's is awaited every time.
        marks=[pytest.mark.slow] if end == "engine restart" and route.name != "chat" else [],
    )
    for route, streamed, end in product((*ROUTES, BATCHES), (False, True), ENDS)
]


@pytest.mark.parametrize(("route", "streamed", "end"), CELLS)
def test_cell(
    parity: Parity, route: Route, streamed: bool, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell(parity, route, streamed)
    if route is BATCHES:
        if streamed:
            batch_is_asked_to_stream(cell)
        else:
            batch_ends(cell, end, monkeypatch)
        return
    if streamed and route.told_last is None:
        # Embeddings have no stream: the wish is named as ignored, and the answer is a plain one.
        answer = cell.ask("short")
        assert "stream" in answer.headers["x-tribody-ignored"]
        assert route.told(answer.json()).prompt == Told.of_row(cell.check("finished")[0]).prompt
        return
    match end:
        case "ok":
            ends_ok(cell)
        case "4xx":
            ends_refused(cell)
        case "engine error":
            ends_with_an_error(cell)
        case "disconnect":
            ends_by_leaving(cell)
        case "timeout":
            ends_by_waiting(cell, monkeypatch)
        case _:
            ends_after_a_restart(cell)


def test_no_route_is_left_out() -> None:
    generating = {path for served in SERVED if served.generates for path in served.paths}
    assert {route.path for route in ROUTES} <= generating
    assert {served.scope for served in SERVED if served.generates} == {r.label for r in ROUTES}
    assert len(CELLS) == 8 * 2 * 6


# --- many at once ----------------------------------------------------------------------------

NUM_CLIENTS = 12
BATCH_LINES = 20


class Crowd:
    """Clients that ask in every way at once, and what they were told."""

    def __init__(self, parity: Parity, count: int, seed: int) -> None:
        self.parity = parity
        self.told: dict[str, Told] = {}  # by request id: of answers that were received whole
        self.told_lines: list[Told] = []  # of batches' lines
        self.refused = 0
        self._left = iter(range(count))
        self._lock = threading.Lock()
        self._seed = seed

    def run(self) -> None:
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            for done in [pool.submit(self._client, i) for i in range(NUM_CLIENTS)]:
                done.result()

    def _client(self, index: int) -> None:
        draw = random.Random(f"{self._seed}/{index}")
        cells = {(r.name, s): Cell(self.parity, r, s) for r in ROUTES for s in (False, True)}
        with cells["chat", False].http() as http:
            while True:
                with self._lock:
                    number = next(self._left, None)
                if number is None:
                    return
                if number % 500 == 499:
                    self._batch(draw)
                    continue
                route = draw.choice(ROUTES)
                streamed = route.told_last is not None and draw.random() < 0.5
                self._ask(http, cells[route.name, streamed], draw)

    def _ask(self, http: httpx2.Client, cell: Cell, draw: random.Random) -> None:
        body, path = cell.body(_text(draw), draw.randint(1, 80)), cell.route.path
        way = draw.random()
        if "messages" in body and cell.route.label == "chat" and way < 0.3:
            body["n"] = draw.randint(2, 3)
        if way > 0.95:
            assert http.post(path, json=body | cell.route.wrong).status_code == 400
            with self._lock:
                self.refused += 1
        elif way > 0.85 and cell.streamed:
            with http.stream("POST", path, json=body) as answer:
                for _ in zip(range(draw.randint(0, 9)), answer.iter_lines(), strict=False):
                    pass
        else:
            answer = http.post(path, json=body)
            if answer.status_code == 200 and '"error"' not in answer.text:
                with self._lock:
                    self.told[answer.headers["x-request-id"]] = cell.told(answer)

    def _batch(self, draw: random.Random) -> None:
        cell = Cell(self.parity, BATCHES, streamed=False)
        bodies = [cell.body(_text(draw), draw.randint(1, 80)) for _ in range(BATCH_LINES)]
        for line in Batch(cell, bodies).ended()[1]:
            if line["response"]["status_code"] == 200:
                with self._lock:
                    self.told_lines.append(cell.route.told(line["response"]["body"]))


def _text(draw: random.Random) -> str:
    """Some begin alike, so that the cache is hit; one in twelve fails."""
    words = "some words of an answer " * draw.randint(0, 3)
    fails = "[[fail]]" if draw.random() < 0.08 else ""
    return FILLER * draw.randint(0, 2) + f"{draw.randint(0, 99)} [[say: {words}!]]{fails}"


def price(told: Told, *, is_batch: bool = False) -> int:
    hit, miss = told.cached, told.prompt - told.cached
    return charge(hit, miss, told.completion, is_batch=is_batch)


@pytest.mark.parametrize(
    "count", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_mixed_requests_sum_to_the_same(tmp_path: Path, count: int) -> None:
    """To the token and the micro-yuan, by the clients, the ledger and the engine."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    parity = Parity(tmp_path / "data")
    crowd = Crowd(parity, count, seed)
    crowd.run()
    parity.until(lambda: not parity.engine._active, "the engine has nothing left")
    parity.until(lambda: not ledger.open_reservations(parity.books.db), "all is settled")
    generated, usages = parity.engine.stats.generated_tokens, parity.engine.usages
    parity.close()

    rows: list[dict[str, Any]] = parity.books.usage()
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    for request_id, told in crowd.told.items():
        row = by_id[request_id]
        assert (Told.of_row(row), row["outcome"]) == (told, "finished")
        assert row["charged_micro"] == price(told)
    lines = [row for row in rows if row["is_batch"] and row["outcome"] == "finished"]
    assert sum((Told.of_row(row) for row in lines), Told()) == sum(crowd.told_lines, Told())
    due = sum(price(told, is_batch=True) for told in crowd.told_lines)
    assert sum(row["charged_micro"] for row in lines) == due

    assert usages.keys() >= set(parity.engine.submitted)
    counted = sum((Told.of_engine(usages[r]) for r in parity.engine.submitted), Told())
    assert sum((Told.of_row(row) for row in rows), Told()) == counted
    assert counted.completion == generated
    charged = sum(row["charged_micro"] for row in rows)
    paid = [0 if row["outcome"] in FREE else price(Told.of_row(row), is_batch=bool(row["is_batch"]))
            for row in rows]  # fmt: skip
    assert [row["charged_micro"] for row in rows] == paid
    assert parity.books.balance().topped_up_micro == 1_000_000 * YUAN - charged
    assert ledger.verify(parity.books.db).problems == []
    ends = Counter(row["outcome"] for row in rows)
    print(f"{len(rows)} records {dict(ends)}, {crowd.refused} refused, {counted}, {charged}")
    assert ends.keys() == {"finished", "error", "disconnect"}
