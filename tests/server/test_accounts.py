"""A server with accounts: who is let in, what is refused, what is charged."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.server.bookkeeping import PRICES, YUAN, Books, charge, client
from tests.server.scripted import Held, RunningServer, ScriptedEngine
from tribody.billing import ledger
from tribody.core.errors import BadConfig
from tribody.core.principal import Limits
from tribody.server.accounts import node_id
from tribody.server.batch_runner import _Answers
from tribody.server.batch_types import JournalLine
from tribody.server.routes import SCOPES
from tribody.tenancy import store
from tribody.tenancy.records import ROUTES, TenantChange

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "seed": 1}


@pytest.fixture
def books(tmp_path) -> Iterator[Books]:
    """Whatever has happened by the end: the ledger can be verified."""
    made = Books(tmp_path / "data")
    made.use(PRICES)
    made.add_tenant()
    yield made
    assert ledger.verify(made.db).problems == []


@pytest.fixture
def served(books: Books) -> Iterator[tuple[RunningServer, ScriptedEngine]]:
    running, engine = books.serve()
    yield running, engine
    running.stop()


def ask(running: RunningServer, key: str, path: str = "/v1/chat/completions", **fields: object):
    with client(running, key) as http:
        return http.post(path, json={**CHAT, **fields})


def test_a_request_is_charged_for_what_it_used(books):
    key = books.add_key()
    running, _ = books.serve()
    answers = [ask(running, key) for _ in range(2)]
    running.stop()
    assert [answer.status_code for answer in answers] == [200, 200]
    rows, total = books.usage(), 0
    for answer, row in zip(answers, rows, strict=True):
        usage = answer.json()["usage"]
        assert row["prompt_tokens"] == usage["prompt_tokens"]
        assert row["cached_tokens"] == usage["prompt_cache_hit_tokens"]
        assert row["completion_tokens"] == usage["completion_tokens"]
        assert row["request_id"] == answer.headers["x-request-id"]
        assert (row["route"], row["outcome"], row["streamed"]) == ("chat", "finished", 0)
        hit, miss = usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]
        assert row["charged_micro"] == charge(hit, miss, usage["completion_tokens"])
        total += row["charged_micro"]
    assert rows[1]["cached_tokens"] > 0
    balance = books.balance()
    assert (balance.topped_up_micro, balance.held_micro) == (100 * YUAN - total, 0)
    assert ledger.open_reservations(books.db) == []


def test_the_balance_is_told_in_fen(books, served):
    running, _ = served
    with client(running, books.add_key()) as http:
        told = wait_for(lambda: http.get("/user/balance"), 200).json()
        assert told["is_available"] is True
        assert told["balance_infos"] == [
            {
                "currency": "CNY",
                "total_balance": "100.00",
                "granted_balance": "0.00",
                "topped_up_balance": "100.00",
            }
        ]


def test_the_engine_learns_the_tenant_and_its_weight(books):
    books.add_tenant("big", weight=3)
    key, big = books.add_key(), books.add_key("big")
    running, engine = books.serve()
    ask(running, key)
    ask(running, big, path="/v1/embeddings", input="x")
    running.stop()
    assert [(made.tenant, made.weight) for made in engine.submitted] == [("acme", 1), ("big", 3)]


def wait_for(get, status: int) -> httpx2.Response:
    """What the server says once it has noticed a change, which it does within a second."""
    ends = time.monotonic() + 5
    while (answer := get()).status_code != status:
        assert time.monotonic() < ends, answer.text
        time.sleep(0.05)
    return answer


def test_changes_are_noticed(books, served):
    running, _ = served
    key = books.add_key()
    wait_for(lambda: ask(running, key), 200)

    def change(made: TenantChange) -> None:
        store.change_tenant(books.db, "acme", made, at_ms=books.now_ms(), who="test")

    change(TenantChange(is_paused=True))
    paused = wait_for(lambda: ask(running, key), 403)
    assert "paused" in paused.json()["error"]["message"]
    change(TenantChange(is_paused=False))
    wait_for(lambda: ask(running, key), 200)
    [kept] = store.all_keys(books.db)
    store.revoke_key(books.db, kept.id, at_ms=books.now_ms(), who="test")
    wait_for(lambda: ask(running, key), 401)


def test_without_money_without_price_without_scope(books):
    books.add_tenant("poor", yuan=0)
    books.add_tenant("owes", yuan=0, credit_micro=YUAN)
    poor, owes = books.add_key("poor"), books.add_key("owes")
    models, routes = (
        books.add_key(models=frozenset({"other"})),
        books.add_key(routes=frozenset({"embeddings"})),
    )
    running, engine = books.serve()
    refused = ask(running, poor, max_tokens=5)
    assert refused.status_code == 402
    assert refused.json()["error"]["message"] == "Insufficient Balance"
    assert ask(running, owes, max_tokens=5).status_code == 200
    assert ask(running, models).status_code == 404
    assert ask(running, routes).status_code == 403
    assert ask(running, routes, path="/v1/embeddings", input="x").status_code == 200
    with client(running, models) as http:
        assert http.get("/v1/models").json()["data"] == []
        assert http.get("/metrics").status_code == 403
    books.use(PRICES.replace('"*"', '"other"'))
    unpriced = wait_for(lambda: ask(running, owes, max_tokens=5), 403)
    assert "no price" in unpriced.json()["error"]["message"]
    running.stop()
    assert books.usage()[0]["tenant_id"] == "owes"
    assert len(engine.submitted) == len(books.usage())


def test_limits(books):
    day = books.add_key(limits=Limits(tokens_per_day=100))
    rate = books.add_key(limits=Limits(requests_per_minute=1))
    running, _ = books.serve()
    assert ask(running, day, max_tokens=5).status_code == 200
    capped = ask(running, day, max_tokens=99)
    assert capped.status_code == 429
    assert int(capped.headers["retry-after"]) > 1
    first = ask(running, rate)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    second = ask(running, rate)
    assert second.status_code == 429
    assert second.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(second.headers["retry-after"]) <= 61
    running.stop()


def test_an_error_is_not_charged_and_a_departure_is(books):
    key = books.add_key()
    running, engine = books.serve()
    engine.fail_after = 3
    assert ask(running, key).status_code == 500
    engine.fail_after = None
    with client(running, key) as http:
        with http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
            for line in answer.iter_lines():
                if "content" in line:
                    break
        wait_for(lambda: http.get("/readyz"), 200)
    running.stop()
    failed, left = books.usage()
    assert (failed["outcome"], failed["charged_micro"]) == ("error", 0)
    assert failed["prompt_tokens"] > 0
    assert left["outcome"] in ("disconnect", "finished")
    paid = charge(
        left["cached_tokens"],
        left["prompt_tokens"] - left["cached_tokens"],
        left["completion_tokens"],
    )
    assert left["charged_micro"] == paid > 0


def test_a_key_of_idempotency_is_charged_once_also_after_a_restart(books):
    key, headers = books.add_key(), {"Idempotency-Key": "order-7"}
    for status in (200, 409):
        running, _ = books.serve()
        with client(running, key) as http:
            answer = http.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert answer.status_code == status
        running.stop()
    assert len(books.usage()) == 1


def test_an_answer_is_paid_for_by_result(books):
    books.use(PRICES + 'result = "0.05"\naccept_seconds = 60\n')
    books.add_tenant("other")
    key, other, checker = (
        books.add_key(),
        books.add_key("other"),
        books.add_key(routes=frozenset({"results"})),
    )
    running, _ = books.serve()
    ids = [ask(running, key).headers["x-request-id"] for _ in range(2)]
    held = books.balance().held_micro

    def decide(key: str, request_id: str, accepted: object = True) -> httpx2.Response:
        with client(running, key) as http:
            return http.post(f"/v1/results/{request_id}", json={"accepted": accepted})

    assert decide(other, ids[0]).status_code == 404
    assert decide(key, "nothing").status_code == 404
    assert decide(key, ids[0], "yes").status_code == 400
    accepted = decide(checker, ids[0]).json()
    assert accepted == {
        "id": ids[0],
        "object": "result",
        "decision": "accepted",
        "amount": "0.05",
        "currency": "CNY",
    }
    assert decide(key, ids[0], accepted=False).json() == accepted
    declined = decide(key, ids[1], accepted=False).json()
    assert (declined["decision"], declined["amount"]) == ("declined", "0.00")
    running.stop()
    tokens = sum(int(str(row["charged_micro"])) for row in books.usage())
    assert held == 2 * 50_000
    balance = books.balance()
    assert (balance.held_micro, balance.topped_up_micro) == (0, 100 * YUAN - tokens - 50_000)


def test_what_a_dead_server_left_open_is_given_back(books):
    accounts, at_ms = books.accounts(), books.now_ms()
    quote = accounts.tariff.find(
        model="scripted", tenant_id="acme", at_ms=at_ms, prompt_tokens=9, is_batch=False
    )
    open_one = ledger.Reservation(
        request_id="r1",
        node_id=accounts.node_id,
        tenant_id="acme",
        key_id="k",
        model="scripted",
        route="chat",
        at_ms=at_ms,
        quote=quote,
        worst_micro=YUAN,
        worst_tokens=9,
    )
    accounts.writer.submit(lambda db: ledger.reserve(db, open_one)).result()
    accounts.writer.close()
    assert books.balance().held_micro == YUAN
    running, _ = books.serve()
    running.stop()
    assert books.balance().held_micro == 0
    assert [(row["outcome"], row["charged_micro"]) for row in books.usage()] == [("restart", 0)]


def test_a_line_whose_answer_is_lost_is_answered_again_and_charged_once(books, monkeypatch):
    """The charge is on the disk before the answer: a crash between the two charged it twice."""
    key, lost = books.add_key(), list[int]()
    add = _Answers._add

    async def fail_once(answers: _Answers, journal_line: JournalLine, raw: bytes) -> None:
        if not lost:
            lost.append(journal_line.line)
            raise OSError("the journal's disk is full")
        await add(answers, journal_line, raw)

    monkeypatch.setattr(_Answers, "_add", fail_once)
    body = {"model": "scripted", "prompt": "hi", "max_tokens": 3}
    lines = [
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": body}
        for i in range(3)
    ]
    running, _ = books.serve(data_dir=books.folder)
    with client(running, key) as http:
        upload = http.post(
            "/v1/files",
            files={"file": ("in.jsonl", "\n".join(map(json.dumps, lines)).encode())},
            data={"purpose": "batch"},
        )
        made = http.post(
            "/v1/batches",
            json={
                "input_file_id": upload.json()["id"],
                "endpoint": "/v1/completions",
                "completion_window": "24h",
            },
        ).json()
        ends = time.monotonic() + 10
        while not lost:
            assert time.monotonic() < ends
            time.sleep(0.02)
    running.stop()
    running, _ = books.serve(data_dir=books.folder)
    with client(running, key) as http:
        while (batch := http.get(f"/v1/batches/{made['id']}").json())["status"] != "completed":
            assert time.monotonic() < ends + 10
            time.sleep(0.02)
    running.stop()
    assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    rows = books.usage()
    finished = [row for row in rows if row["outcome"] == "finished"]
    assert len(finished) == 3
    for row in finished:
        cached, prompt = int(str(row["cached_tokens"])), int(str(row["prompt_tokens"]))
        due = charge(cached, prompt - cached, int(str(row["completion_tokens"])), is_batch=True)
        assert (row["is_batch"], row["charged_micro"]) == (1, due)
    assert sum(int(str(row["charged_micro"])) for row in rows) == sum(
        int(str(row["charged_micro"])) for row in finished
    )


@pytest.mark.parametrize(
    ("url", "fields"),
    [("/v1/completions", {"prompt": "hi", "max_tokens": 9}), ("/v1/embeddings", {"input": "hi"})],
)
def test_a_line_that_the_drain_cut_is_answered_and_paid_for_later(books, url, fields):
    """It was charged for what it had come to, and after the next start answered for nothing."""
    key = books.add_key()
    body = {"model": "scripted", **fields}
    line = json.dumps({"custom_id": "r", "method": "POST", "url": url, "body": body}).encode()
    running, engine = books.serve(data_dir=books.folder)
    engine.hold = Held(after=0 if "input" in fields else 3)
    with client(running, key) as http:
        form = {"purpose": "batch"}
        file = http.post("/v1/files", files={"file": ("in.jsonl", line)}, data=form).json()
        asked = {"input_file_id": file["id"], "endpoint": url, "completion_window": "24h"}
        made = http.post("/v1/batches", json=asked).json()
        assert engine.hold.reached.wait(10)
    running.server.handle_exit(signal.SIGTERM, None)
    running.thread.join(10)
    assert not running.thread.is_alive()
    running, _ = books.serve(data_dir=books.folder)
    with client(running, key) as http:
        ends = time.monotonic() + 10
        while http.get(f"/v1/batches/{made['id']}").json()["status"] != "completed":
            assert time.monotonic() < ends
            time.sleep(0.02)
    running.stop()
    cut, whole = books.usage()
    assert (cut["outcome"], cut["charged_micro"]) == ("drain", 0)
    assert whole["outcome"] == "finished"
    assert int(str(whole["charged_micro"])) > 0


def test_a_key_can_be_for_every_route_that_asks_for_one():
    assert SCOPES - {"probes"} == ROUTES


def test_the_engine_knows_whose_turn_it_is(books):
    books.add_tenant("heavy", weight=7)
    key = books.add_key("heavy")
    running, engine = books.serve()
    ask(running, key)
    ask(running, key, path="/v1/embeddings", input="x")
    running.stop()
    assert [(one.tenant, one.weight) for one in engine.submitted] == [("heavy", 7)] * 2


@pytest.mark.parametrize("content", [b"", b"node-1\n", b"node-\xff"])
def test_a_torn_name_of_the_node_is_no_name(books, content):
    """An empty file was taken for a name, under which nothing that was held was found again."""
    first = node_id(books.folder)
    assert node_id(books.folder) == first
    (books.folder / "node").write_bytes(content)
    with pytest.raises(BadConfig, match="node's name"):
        node_id(books.folder)
