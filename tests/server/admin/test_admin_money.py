"""Money over the admin API: exact amounts, one effect to an idempotency key, books that balance."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.server.admin.admin_server import NOW_MS, AdminServer, code_of
from tribody.billing.ledger import Reservation, reserve
from tribody.billing.pricing import Quote
from tribody.server.admin.amounts import amount_text, micro_of

YUAN = 1_000_000


@pytest.fixture
def tenant(http: httpx2.Client, request: pytest.FixtureRequest) -> str:
    """One of the test's own, without money."""
    name = f"m-{abs(hash(request.node.nodeid)) % 10**12}"
    assert http.post("/admin/tenants", json={"id": name}).status_code == 200
    return name


def move(
    http: httpx2.Client, tenant: str, kind: str, key: str, body: dict[str, Any]
) -> httpx2.Response:
    path = f"/admin/tenants/{tenant}/{kind}"
    return http.post(path, json=body, headers={"Idempotency-Key": key})


def balance(http: httpx2.Client, tenant: str) -> dict[str, str]:
    shown: dict[str, str] = http.get(f"/admin/tenants/{tenant}/balance").json()["data"][0]
    return shown


def test_amounts_are_exact_and_read_back() -> None:
    for micro in (0, 1, 10, 999_999, 10**6, 1_234_567, 110 * YUAN, 10**15, 10**15 - 1):
        assert micro_of("amount", amount_text(micro)) == micro
        assert micro_of("amount", amount_text(-micro), signed=True) == -micro
    assert amount_text(110 * YUAN) == "110.00"
    assert amount_text(1_234 * YUAN + 500_000) == "1234.50"
    assert amount_text(-1) == "-0.000001"


def test_a_tenant_that_never_paid_has_nothing(http: httpx2.Client, tenant: str) -> None:
    nothing = dict.fromkeys(("total", "granted", "topped_up", "held", "available"), "0.00")
    answer = http.get(f"/admin/tenants/{tenant}/balance")
    assert answer.json() == {"tenant_id": tenant, "data": [{"currency": "CNY"} | nothing]}


def test_every_movement(http: httpx2.Client, tenant: str) -> None:
    moves = [
        ("top-ups", {"amount": "110.00", "note": "invoice 7"}, "110.00", "0.00"),
        ("grants", {"amount": "10"}, "110.00", "10.00"),
        ("refunds", {"amount": "9.999999"}, "100.000001", "10.00"),
        ("adjustments", {"amount": "-0.000001"}, "100.00", "10.00"),
        ("adjustments", {"amount": "-4", "balance": "granted"}, "100.00", "6.00"),
        ("adjustments", {"amount": "0.5"}, "100.50", "6.00"),
    ]
    for number, (kind, body, paid, granted) in enumerate(moves):
        answer = move(http, tenant, kind, f"{tenant}-{number}", body)
        assert answer.status_code == 200, answer.text
        [shown] = answer.json()["balances"]
        assert (shown["topped_up"], shown["granted"]) == (paid, granted)
        assert shown == balance(http, tenant)
    statement = http.get(f"/admin/tenants/{tenant}/statement").json()
    assert [line["movement"]["kind"] for line in statement["lines"]] == [
        "top_up",
        "grant",
        "refund",
        "adjust",
        "adjust",
        "adjust",
    ]
    assert statement["lines"][0]["movement"]["note"] == "invoice 7"
    assert statement["closing"] == {"total": "106.50", "granted": "6.00", "topped_up": "100.50"}
    entries = http.get("/admin/ledger/entries", params={"tenant_id": tenant}).json()["data"]
    assert len(entries) == len(moves)
    for entry in entries:
        amounts = [micro_of("a", one["amount"], signed=True) for one in entry["postings"]]
        assert sum(amounts) == 0
        assert entry["detail"]["who"] == "admin-api"


def test_currencies_stand_side_by_side(http: httpx2.Client, tenant: str) -> None:
    move(http, tenant, "top-ups", "c1", {"amount": "1", "currency": "USD"})
    shown = http.get(f"/admin/tenants/{tenant}/balance").json()["data"]
    assert [(one["currency"], one["total"]) for one in shown] == [("CNY", "0.00"), ("USD", "1.00")]
    statement = http.get(f"/admin/tenants/{tenant}/statement?currency=USD").json()
    assert statement["closing"]["total"] == "1.00"


BAD_AMOUNTS: list[Any] = [
    None, 1, 1.5, True, [], {}, "", " ", "0", "0.000000", "-1", "+1", "1.", ".5", "1,5", "1,000.00",
    "1e3", "0x10", "1.0000001", "NaN", "inf", "１", "٣", " 1", "1 ", "1\n", "10000000000",
    "1000000000.000001", "9" * 400, "1_000",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["top-ups", "grants", "refunds", "adjustments"])
def test_bad_amounts_move_nothing(http: httpx2.Client, tenant: str, kind: str) -> None:
    for number, amount in enumerate(BAD_AMOUNTS):
        if (kind, amount) == ("adjustments", "-1"):
            continue
        answer = move(http, tenant, kind, f"bad-{number}", {"amount": amount})
        assert code_of(answer)[::2] == (400, "amount"), (amount, answer.text)
    assert balance(http, tenant)["total"] == "0.00"
    assert http.get("/admin/ledger/entries", params={"tenant_id": tenant}).json()["data"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "amount"),
        ({"amount": "1", "currency": "EUR"}, "currency"),
        ({"amount": "1", "note": "n" * 501}, "note"),
        ({"amount": "1", "note": None}, "note"),
        ({"amount": "1", "amout": "2"}, "amout"),
        ({"amount": "1", "balance": "granted"}, "balance"),
        ({"amount": "1", "at_ms": 0}, "at_ms"),
        ({"amount": "1", "who": "me"}, "who"),
    ],
)
def test_bad_bodies_move_nothing(
    http: httpx2.Client, tenant: str, body: dict[str, Any], param: str
) -> None:
    assert code_of(move(http, tenant, "top-ups", "b", body))[::2] == (400, param)
    assert balance(http, tenant)["total"] == "0.00"


@pytest.mark.parametrize(
    "keys", [[], [b""], [b" "], [b"a b"], [b"x" * 256], ["ü".encode()], [b"a", b"a"], [b"a", b"b"]]
)
@pytest.mark.parametrize("kind", ["top-ups", "grants", "refunds", "adjustments"])
def test_without_one_good_key_nothing_moves(
    http: httpx2.Client, tenant: str, kind: str, keys: list[bytes]
) -> None:
    headers = [(b"Idempotency-Key", key.strip()) for key in keys]
    answer = http.post(f"/admin/tenants/{tenant}/{kind}", json={"amount": "1"}, headers=headers)
    assert code_of(answer) == (400, "idempotency_key_missing", "Idempotency-Key")
    assert balance(http, tenant)["total"] == "0.00"


def test_one_key_is_one_effect(http: httpx2.Client, server: AdminServer, tenant: str) -> None:
    first = move(http, tenant, "top-ups", "k", {"amount": "5"})
    server.time.ms += 86_400_000
    again = move(http, tenant, "top-ups", "k", {"amount": "5.00"})
    server.time.ms -= 86_400_000
    assert again.json() == first.json()
    assert again.json()["at_ms"] == NOW_MS
    for kind, body in [
        ("top-ups", {"amount": "5.000001"}),
        ("top-ups", {"amount": "5", "currency": "USD"}),
        ("grants", {"amount": "5"}),
        ("refunds", {"amount": "5"}),
        ("adjustments", {"amount": "5"}),
    ]:
        answer = move(http, tenant, kind, "k", body)
        assert code_of(answer) == (422, "idempotency_conflict", "Idempotency-Key")
    assert balance(http, tenant)["total"] == "5.00"


def test_another_tenants_key_is_another_key(http: httpx2.Client, tenant: str) -> None:
    http.post("/admin/tenants", json={"id": f"{tenant}-2"})
    for name in (tenant, f"{tenant}-2"):
        assert move(http, name, "top-ups", "shared", {"amount": "1"}).status_code == 200
        assert balance(http, name)["total"] == "1.00"


def test_fifty_at_once_are_one(server: AdminServer, http: httpx2.Client, tenant: str) -> None:
    def pay(number: int) -> httpx2.Response:
        with server.client() as client:
            key = "same" if number % 2 else f"own-{number}"
            return move(client, tenant, "top-ups", key, {"amount": "1"})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(pay, range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["sequence"] for answer in answers}) == 26
    assert balance(http, tenant)["total"] == "26.00"


def test_what_is_not_there_cannot_be_paid_back(
    http: httpx2.Client, server: AdminServer, tenant: str
) -> None:
    move(http, tenant, "top-ups", "p", {"amount": "10"})
    move(http, tenant, "grants", "g", {"amount": "5"})
    assert code_of(move(http, tenant, "refunds", "r1", {"amount": "10.000001"})) == (
        409,
        "insufficient_balance",
        "amount",
    )
    quote = Quote(
        tariff_digest="", rule_id="r", currency="CNY", at_ms=NOW_MS, hit=0, miss=0, output=0
    )
    held = Reservation(
        request_id=f"request-{tenant}",
        node_id="n",
        tenant_id=tenant,
        key_id="k",
        model="m",
        route="chat",
        at_ms=NOW_MS,
        quote=quote,
        worst_micro=12 * YUAN,
        worst_tokens=7,
    )
    server.writer.submit(lambda db: reserve(db, held)).result()
    assert balance(http, tenant)["held"] == "12.00"
    assert balance(http, tenant)["available"] == "3.00"
    assert move(http, tenant, "refunds", "r2", {"amount": "3.000001"}).status_code == 409
    assert move(http, tenant, "refunds", "r3", {"amount": "3"}).status_code == 200
    taken = {"amount": "-5.000001", "balance": "granted"}
    assert move(http, tenant, "adjustments", "a", taken).status_code == 409
    [shown] = http.get("/admin/reservations", params={"tenant_id": tenant}).json()["data"]
    assert shown["request_id"] == held.request_id
    assert (shown["held"], shown["held_tokens"], shown["currency"]) == ("12.00", 7, "CNY")
