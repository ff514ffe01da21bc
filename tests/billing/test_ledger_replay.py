"""What a period would have cost by another price list."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import (
    COUNTS,
    NOON_MS,
    database,
    give,
    quote,
    reservation,
    usage,
)
from tests.billing.test_ledger_tariffs import PLAIN
from tribody.billing import ledger, periods
from tribody.billing.ledger import Chosen, ReplayRow
from tribody.billing.tariffs import Tariff

BY_LENGTH = """
title = "By length"
currency = "CNY"
[free.trial]
output = 150
[[rule]]
id = "short"
models = ["r1"]
prompt_tokens = { up_to = 500 }
hit = 1
miss = 1
output = 1
free = "trial"
[[rule]]
id = "long"
models = ["r1"]
prompt_tokens = { above = 500 }
hit = 2
miss = 2
output = 2
free = "trial"
[[rule]]
id = "judged"
models = ["judge"]
hit = 1
miss = 1
output = 1
result = "0.005"
accept_seconds = 60
[[rule]]
id = "dollars"
models = ["r1"]
currency = "USD"
hit = 3
miss = 3
output = 3
"""
LATER_MS = periods.month_end_ms(NOON_MS)


def run(db, name, *, outcome="finished", ended_ms=NOON_MS, **changes):
    ledger.reserve(db, reservation(name, **changes))
    ledger.settle(db, name, COUNTS, outcome, ended_ms)


@pytest.fixture
def db():
    opened = database()
    give(opened, topped_up=1_000_000)
    with opened.transaction():
        yield opened
    opened.close()


def replayed(db, text=BY_LENGTH, **chosen):
    return ledger.replay(db, Tariff.parse(text), Chosen(**chosen))


def test_the_list_in_use_gives_what_was_charged(db):
    for name in ("one", "two"):
        run(db, name)
    [row] = replayed(db, PLAIN)
    assert row == ReplayRow(
        tenant="acme",
        model="r1",
        currency="CNY",
        requests=2,
        charged_micro=7600,
        replayed_micro=7600,
    )


def test_each_request_is_priced_by_the_length_that_its_quote_was_found_for(db):
    run(db, "short", prompt_tokens=500)
    run(db, "long", prompt_tokens=501)
    ledger.record(db, usage("recorded", tenant_id="zeta"))
    acme, zeta = replayed(db)
    assert acme.replayed_micro == (1000 + 0) * 1 + (1000 + 50) * 2  # 150 tokens are free
    assert (zeta.tenant, zeta.requests, zeta.charged_micro) == ("zeta", 1, 0)
    assert zeta.replayed_micro == 1000 * 2  # by its own length; its allowance is its own


def test_our_failures_stay_free(db):
    run(db, "failed", outcome="error")
    run(db, "left", outcome="disconnect")
    [row] = replayed(db)
    assert (row.requests, row.charged_micro) == (1, 3800)


def test_accepted_answers_are_in_both(db):
    by_result = quote(hit=0, miss=0, output=0, result_micro=2000, accept_seconds=60)
    for name in ("yes", "no", "undecided"):
        run(db, name, model="judge", quote=by_result)
    ledger.accept(db, "yes", True, NOON_MS)
    ledger.accept(db, "no", False, NOON_MS)
    [row] = replayed(db)
    assert (row.requests, row.charged_micro) == (3, 2000)
    assert row.replayed_micro == 3 * 1100 + 5000


def test_what_has_no_price_is_said(db):
    run(db, "one", model="unknown")
    run(db, "two", model="unknown")
    run(db, "three")
    known, unknown = replayed(db)
    assert (known.model, known.unpriced, known.reason) == ("r1", 0, "")
    assert (unknown.requests, unknown.unpriced, unknown.charged_micro) == (2, 2, 7600)
    assert unknown.replayed_micro == 0
    assert "no rule names it" in unknown.reason


def test_a_charge_is_priced_in_its_own_currency(db):
    ledger.top_up(db, "acme", 10_000, "USD", "dollars", "", NOON_MS, "root")
    run(db, "yuan")
    run(db, "dollars", quote=quote(currency="USD"))
    yuan, dollars = replayed(db)
    assert (yuan.currency, yuan.replayed_micro) == ("CNY", 1000)  # 100 tokens were free
    assert (dollars.currency, dollars.replayed_micro) == ("USD", 3300)


def test_only_what_is_chosen_is_replayed(db):
    run(db, "november")
    run(db, "december", ended_ms=LATER_MS)
    [row] = replayed(db, to_ms=LATER_MS)
    assert row.requests == 1
    assert replayed(db, tenant_id="zeta") == []
