"""Usage, statements, entries, verifications, prices and status over the admin API."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.admin.admin_server import NOW_MS, AdminServer, admin_server, code_of
from tests.server.bookkeeping import PRICES
from tribody.billing import ledger
from tribody.billing.tariffs import Tariff
from tribody.billing.verify import Progress, Report, verify
from tribody.core.metering import Counts
from tribody.server.admin import books
from tribody.storage.database import Database

DAY_MS = 86_400_000
YUAN = 1_000_000


def reservation(number: int, tenant: str, model: str, at_ms: int) -> ledger.Reservation:
    quote = Tariff.parse(PRICES).find(
        model=model, tenant_id=tenant, at_ms=at_ms, prompt_tokens=0, is_batch=False
    )
    return ledger.Reservation(
        request_id=f"request-{number}",
        node_id="node-1",
        tenant_id=tenant,
        key_id=f"key-{tenant}",
        model=model,
        route="chat",
        at_ms=at_ms,
        quote=quote,
        worst_micro=10 * YUAN,
        worst_tokens=1_000_000,
    )


@pytest.fixture(scope="module")
def books_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    """Two tenants, two models, two days: a million tokens answered at 8 yuan each time."""
    with admin_server(tmp_path_factory.mktemp("books")) as server, server.client() as http:
        http.put("/admin/tariff", json={"text": PRICES})
        for tenant in ("acme", "other"):
            http.post("/admin/tenants", json={"id": tenant})
            paid = http.post(
                f"/admin/tenants/{tenant}/top-ups",
                json={"amount": "100"},
                headers={"Idempotency-Key": "p"},
            )
            assert paid.status_code == 200
        number = 0
        for day in (0, 1):
            for tenant in ("acme", "other"):
                for model in ("m1", "m2"):
                    number += 1
                    at_ms = NOW_MS + day * DAY_MS
                    one = reservation(number, tenant, model, at_ms)
                    _settle(server, one, at_ms)
        server.writer.submit(
            lambda db: ledger.reserve(db, reservation(99, "acme", "m1", NOW_MS))
        ).result()
        server.time.ms += 2 * DAY_MS
        yield server


def _settle(server: AdminServer, one: ledger.Reservation, at_ms: int) -> None:
    def work(db: Database) -> None:
        ledger.reserve(db, one)
        counts = Counts(prompt_tokens=0, completion_tokens=1_000_000)
        ledger.settle(db, one.request_id, counts, "finished", at_ms + 1)

    server.writer.submit(work).result()


@pytest.fixture
def http(books_server: AdminServer) -> Iterator[httpx2.Client]:
    with books_server.client() as client:
        yield client


def usage(http: httpx2.Client, **query: Any) -> list[dict[str, Any]]:
    answer = http.get("/admin/usage", params=query)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def test_usage_adds_up_however_it_is_grouped(http: httpx2.Client) -> None:
    [whole] = usage(http)
    assert (whole["requests"], whole["completion_tokens"]) == (8, 8_000_000)
    assert (whole["charged"], whole["currency"]) == ("64.00", "CNY")
    for groups, rows in [
        ("day", 2),
        ("tenant", 2),
        ("model", 2),
        ("key,model", 4),
        ("day,tenant,model", 8),
        ("month", 1),
        ("user", 1),
        ("route,outcome", 1),
    ]:
        found = usage(http, group_by=groups)
        assert len(found) == rows, groups
        assert sum(row["requests"] for row in found) == 8
        assert sum(float(row["charged"]) for row in found) == 64
    by_tenant = usage(http, group_by="tenant")
    assert [row["tenant_id"] for row in by_tenant] == ["acme", "other"]
    assert {row["model"] for row in by_tenant} == {""}


def test_usage_of_some(http: httpx2.Client) -> None:
    chosen: list[tuple[dict[str, Any], int]] = [
        ({"tenant_id": "acme"}, 4),
        ({"tenant_id": "acme", "model": "m1"}, 2),
        ({"key_id": "key-other"}, 4),
        ({"from_ms": NOW_MS + DAY_MS}, 4),
        ({"to_ms": NOW_MS + DAY_MS}, 4),
        ({"from_ms": NOW_MS + 1, "to_ms": NOW_MS + 2}, 4),
        ({"from_ms": NOW_MS + 2, "to_ms": NOW_MS + DAY_MS}, 0),
        ({"tenant_id": "nobody"}, 0),
        ({"tenant_id": "' OR 1=1 --"}, 0),
        ({"model": "%"}, 0),
    ]
    for query, requests in chosen:
        assert sum(row["requests"] for row in usage(http, **query)) == requests, query


@pytest.mark.parametrize(
    "query",
    [
        "group_by=day,day",
        "group_by=days",
        "group_by=,",
        "group_by=tenant_id",
        "group_by=day;DROP",
        f"group_by={'day,' * 100}",
        "from_ms=-1",
        "from_ms=1.5",
        "from_ms=yesterday",
        "from_ms=99999999999999999999",
        "to_ms=",
        "grop_by=day",
        "model=a%00b",
        "tenant_id=a&tenant_id=b",
    ],
)
def test_bad_questions_about_usage(http: httpx2.Client, query: str) -> None:
    assert code_of(http.get(f"/admin/usage?{query}"))[0] == 400


def test_too_many_rows_are_refused(http: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MAX_USAGE_ROWS", 7)
    answer = http.get("/admin/usage?group_by=day,tenant,model")
    assert code_of(answer)[::2] == (400, "group_by")


def test_a_statement_names_the_rules(http: httpx2.Client) -> None:
    made = http.get("/admin/tenants/acme/statement").json()
    assert (made["charged"], made["closing"]["total"]) == ("32.00", "68.00")
    assert [rule["model"] for rule in made["rules"]] == ["m1", "m2"]
    rule = made["rules"][0]
    assert (rule["rule_id"], rule["requests"], rule["charged"]) == ("all", 2, "16.00")
    assert rule["rule"] == "all: hit 0.5 / miss 2 / output 8 CNY per million tokens"
    assert rule["kinds"] == [
        {"kind": "output", "tokens": 2_000_000, "free_tokens": 0, "price": "8.00"}
    ]
    assert made["open_requests"] == 1
    second = http.get(f"/admin/tenants/acme/statement?from_ms={NOW_MS + DAY_MS}").json()
    first = http.get(f"/admin/tenants/acme/statement?to_ms={NOW_MS + DAY_MS}").json()
    assert first["closing"] == second["opening"]
    assert second["closing"] == made["closing"]
    for query in ("from_ms=5&to_ms=4", "currency=EUR", "to_ms=x", "tenant_id=other"):
        assert http.get(f"/admin/tenants/acme/statement?{query}").status_code == 400, query


def test_entries_page_by_page(http: httpx2.Client) -> None:
    whole = http.get("/admin/ledger/entries?limit=1000").json()
    assert whole["has_more"] is False
    numbers = [entry["sequence"] for entry in whole["data"]]
    assert numbers == list(range(1, len(numbers) + 1))
    seen: list[dict[str, Any]] = []
    while True:
        after = seen[-1]["sequence"] if seen else 0
        page = http.get(f"/admin/ledger/entries?limit=4&after={after}").json()
        seen += page["data"]
        if not page["has_more"]:
            break
    assert seen == whole["data"]
    settled = http.get("/admin/ledger/entries?kind=settle&tenant_id=acme").json()["data"]
    assert [entry["kind"] for entry in settled] == ["settle"] * 4
    assert http.get("/admin/ledger/entries?after=1000000").json()["data"] == []
    for query in ("after=-1", "limit=0", "limit=1001", "kind=theft", f"after={2**63}"):
        assert http.get(f"/admin/ledger/entries?{query}").status_code == 400, query


def test_reservations_and_status(http: httpx2.Client, books_server: AdminServer) -> None:
    shown = http.get("/admin/reservations").json()
    assert [one["request_id"] for one in shown["data"]] == ["request-99"]
    assert http.get("/admin/reservations?tenant_id=other").json()["data"] == []
    status = http.get("/admin/status").json()
    assert status["open_reservations"] == 1
    assert status["writer_failure"] is None
    assert status["tariff_digest"] == Tariff.parse(PRICES).digest
    assert status["tenancy_revision"] == 2
    assert status["directory_revision"] == 0  # of the server's copy, which nobody polls here
    books_server.directory.poll()
    assert http.get("/admin/status").json()["directory_revision"] == 2


# --- verifications ---------------------------------------------------------------------------


def ended(http: httpx2.Client, verification_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        shown: dict[str, Any] = http.get(f"/admin/ledger/verifications/{verification_id}").json()
        if shown["state"] != "running":
            return shown
        time.sleep(0.01)
    raise AssertionError("the verification did not end")


def test_a_ledger_that_is_right(http: httpx2.Client) -> None:
    made = http.post("/admin/ledger/verifications").json()
    found = ended(http, made["id"])
    assert found["problems"] == []
    assert (found["state"], found["ok"]) == ("ended", True)
    entries = http.get("/admin/ledger/entries?limit=1000").json()["data"]
    assert found["checked"] == found["total"] == len(entries)
    assert found["head"] == entries[-1]["hash"]
    assert found["charges"] == 8
    assert http.get("/admin/ledger/verifications").json()["data"][0] == found


def test_a_ledger_that_is_not(tmp_path: Path) -> None:
    with admin_server(tmp_path) as server, server.client() as http:
        http.post("/admin/tenants", json={"id": "acme"})
        headers = {"Idempotency-Key": "p"}
        http.post("/admin/tenants/acme/top-ups", json={"amount": "1"}, headers=headers)

        def spoil(db: Database) -> None:
            db.run("UPDATE balances SET micro = micro + 1 WHERE account = 'tenant/acme/topped_up'")

        server.writer.submit(spoil).result()
        found = ended(http, http.post("/admin/ledger/verifications").json()["id"])
        assert (found["state"], found["ok"]) == ("ended", False)
        assert found["num_problems"] == len(found["problems"]) > 0


def test_one_runs_at_a_time_and_tells_how_far_it_is(tmp_path: Path) -> None:
    half, go_on = threading.Event(), threading.Event()

    def slow(db: Database, progress: Progress) -> Report:
        progress(3, 6)
        half.set()
        assert go_on.wait(20)
        progress(6, 6)
        return verify(db)

    with admin_server(tmp_path, slow) as server, server.client() as http:
        first = http.post("/admin/ledger/verifications").json()
        assert half.wait(20)
        again = http.post("/admin/ledger/verifications").json()
        assert again["id"] == first["id"]
        assert (again["state"], again["checked"], again["total"]) == ("running", 3, 6)
        assert again["ok"] is None
        go_on.set()
        assert ended(http, first["id"])["ok"] is True
        assert http.post("/admin/ledger/verifications").json()["id"] != first["id"]


def test_the_servers_end_ends_a_verification(tmp_path: Path) -> None:
    begun = threading.Event()

    def endless(db: Database, progress: Progress) -> Report:
        while True:
            progress(1, 2)
            begun.set()
            time.sleep(0.001)

    with admin_server(tmp_path, endless) as server, server.client() as http:
        http.post("/admin/ledger/verifications")
        assert begun.wait(20)
    # The block above ends within its time, or fails.


# --- a database that cannot be written --------------------------------------------------------


def test_a_writer_that_has_failed_takes_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with admin_server(tmp_path) as server, server.client() as http:
        http.post("/admin/tenants", json={"id": "acme"})
        monkeypatch.setattr(server.writer, "failure", "fsync: input/output error in /data/x.db")
        for method, path, body in [
            ("POST", "/admin/tenants", {"id": "other"}),
            ("PATCH", "/admin/tenants/acme", {"weight": 2}),
            ("POST", "/admin/keys", {"tenant_id": "acme"}),
            ("POST", "/admin/tenants/acme/top-ups", {"amount": "1"}),
            ("PUT", "/admin/tariff", {"text": PRICES}),
        ]:
            answer = http.request(method, path, json=body, headers={"Idempotency-Key": "k"})
            assert code_of(answer)[:2] == (503, "storage_failed"), path
            assert "/data" not in answer.text
            assert answer.headers["retry-after"] == "1"
        assert http.get("/admin/tenants").json()["data"][0]["weight"] == 1
        assert "fsync" in http.get("/admin/status").json()["writer_failure"]


# --- prices ----------------------------------------------------------------------------------


def test_price_lists_come_and_stay(tmp_path: Path) -> None:
    other = PRICES.replace("miss = 2", "miss = 3")
    digests = [Tariff.parse(text).digest for text in (PRICES, other)]
    with admin_server(tmp_path) as server, server.client() as http:
        assert code_of(http.get("/admin/tariff"))[0] == 404
        assert http.get("/admin/tariff/history").json() == {"data": []}
        for text, digest in zip((PRICES, other), digests, strict=True):
            shown = {"digest": digest, "text": text}
            assert http.put("/admin/tariff", json={"text": text}).json() == shown
            assert http.put("/admin/tariff", json={"text": text}).json() == shown
            assert http.get("/admin/tariff").json() == shown
        uses = http.get("/admin/tariff/history").json()["data"]
        assert [use["digest"] for use in uses] == digests[::-1]
        assert uses[0] == {"digest": digests[1], "at_ms": NOW_MS, "who": "admin-api"}
        for text, digest in zip((PRICES, other), digests, strict=True):
            assert http.get(f"/admin/tariff/history/{digest}").json()["text"] == text
        assert http.get(f"/admin/tariff/history/{'0' * 64}").status_code == 404


GAP = PRICES.replace(
    "[[rule]]", '[band.early]\nhours = ["08:00-09:00"]\n\n[[rule]]\nband = "early"'
)


def test_a_list_with_gaps_is_told_and_not_used(http: httpx2.Client) -> None:
    before = http.get("/admin/tariff").json()
    checked = http.post("/admin/tariff/check", json={"text": GAP}).json()
    assert checked["ok"] is False
    assert checked["problems"][0]["severity"] == "error"
    assert checked["digest"] == Tariff.parse(GAP).digest
    refused = http.put("/admin/tariff", json={"text": GAP})
    assert code_of(refused) == (400, "bad_tariff", "text")
    good = http.post("/admin/tariff/check", json={"text": PRICES}).json()
    assert (good["ok"], good["problems"]) == (True, [])
    assert http.get("/admin/tariff").json() == before


@pytest.mark.parametrize(
    "text", ["", "x", "= 1", "[[rule]]", "title = 1", "\u0000", "a = [" * 5000, "x" * 900_000]
)
def test_what_is_no_price_list(http: httpx2.Client, text: str) -> None:
    before = http.get("/admin/tariff").json()
    for method, path in (("POST", "/admin/tariff/check"), ("PUT", "/admin/tariff")):
        answer = http.request(method, path, json={"text": text})
        assert code_of(answer) == (400, "bad_tariff", "text")
        assert len(answer.content) < 2_000
    assert http.get("/admin/tariff").json() == before


# --- the same on PostgreSQL --------------------------------------------------------------------


def test_a_life_in_postgresql(tmp_path: Path, postgres_url: str) -> None:
    """Every route that reads or writes, once; a null in a filter is refused here too."""
    with admin_server(tmp_path, url=postgres_url) as server, server.client() as http:
        assert http.put("/admin/tariff", json={"text": PRICES}).status_code == 200
        assert http.post("/admin/tenants", json={"id": "acme"}).status_code == 200
        assert http.post("/admin/tenants/acme/users", json={"id": "bob"}).status_code == 200
        key = http.post("/admin/keys", json={"tenant_id": "acme", "user_id": "bob"}).json()
        paid = {"amount": "100", "note": "null \u0000, quote ' and 一号"}
        for _ in range(2):
            shown = http.post(
                "/admin/tenants/acme/top-ups", json=paid, headers={"Idempotency-Key": "p"}
            ).json()
            assert (shown["sequence"], shown["note"]) == (2, paid["note"])
        _settle(server, reservation(1, "acme", "m1", NOW_MS), NOW_MS)
        for path in [
            "/admin/tenants",
            "/admin/tenants/acme/users",
            "/admin/tenants/acme/balance",
            "/admin/tenants/acme/statement",
            f"/admin/keys/{key['id']}",
            "/admin/keys?tenant_id=acme",
            "/admin/usage?group_by=day,model",
            "/admin/reservations?tenant_id=acme",
            "/admin/ledger/entries?kind=settle",
            "/admin/tariff/history",
            "/admin/status",
        ]:
            assert http.get(path).status_code == 200, path
        assert http.get("/admin/usage?model=a%00b").status_code == 400
        assert http.get("/admin/tenants/acme/balance").json()["data"][0]["total"] == "92.00"
        found = ended(http, http.post("/admin/ledger/verifications").json()["id"])
        assert (found["ok"], found["problems"], found["charges"]) == (True, [], 1)
