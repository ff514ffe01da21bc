"""Invoices: everything on them comes from the ledger and adds up, on paper too."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.billing.ledger_cases import (
    COST,
    COUNTS,
    NOON_MS,
    YUAN,
    allowance,
    database,
    give,
    quote,
    reservation,
)
from tribody.billing import ledger, queries
from tribody.billing.invoice import Invoice, InvoiceLine, Month, Purses, invoices
from tribody.billing.invoice_html import page
from tribody.billing.invoice_words import WORDS
from tribody.billing.periods import month_bounds_ms
from tribody.core.errors import StorageFailed
from tribody.core.metering import Counts

FIRST_MS, LAST_MS = month_bounds_ms("2025-11")
DAY_MS = 86_400_000


@pytest.fixture
def db():
    opened = database()
    give(opened, granted=3000, topped_up=10 * YUAN)
    yield opened
    opened.close()


def ask(db, request_id, counts=COUNTS, outcome="finished", **changes):
    with db.transaction():
        ledger.reserve(db, reservation(request_id, **changes))
    if outcome is not None:
        at_ms = changes.get("at_ms", NOON_MS)
        with db.transaction():
            ledger.settle(db, request_id, counts, outcome, at_ms + 5000)


def made(db, month="2025-11", made_ms=LAST_MS, tenant="acme") -> list[Invoice]:
    first_ms, last_ms = month_bounds_ms(month)
    where = queries.Where(tenant=tenant, first_ms=first_ms, last_ms=last_ms)
    head = queries.head(db)
    upto = head.sequence
    return invoices(
        Month(
            tenant_id=tenant,
            tenant_name="Acme Ltd",
            currency="CNY",
            month=month,
            first_ms=first_ms,
            last_ms=last_ms,
            made_ms=made_ms,
            head=head,
            num_unfinished=queries.num_unfinished(db, where, upto),
        ),
        queries.settled(db, where, upto),
        queries.accepted(db, where, upto),
        queries.transfers(db, where, upto),
        (
            queries.purses_before(db, tenant, first_ms, upto),
            queries.purses_before(db, tenant, last_ms, upto),
        ),
    )


def cells(html: str) -> list[list[str]]:
    """The rows of all tables."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    return [
        [unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<td>(.*?)</td>", row)]
        for row in rows
    ]


def number(text: str) -> Decimal:
    return Decimal(text.replace(",", "").lstrip("¥$ "))


def test_one_request(db):
    ask(db, "one")
    (invoice,) = made(db)
    assert invoice.total_micro == COST == 3800
    assert invoice.granted_micro == 3000
    assert invoice.before == Purses()
    assert invoice.after == Purses(topped_up_micro=10 * YUAN - 800)
    (rule,) = invoice.rules
    assert (rule.model, rule.rule_id, rule.requests) == ("r1", "r1", 1)
    assert rule.rounding == 0
    assert list(rule.lines.values()) == [
        InvoiceLine(kind="hit", tokens=600, price=YUAN, amount=Fraction(600)),
        InvoiceLine(kind="miss", tokens=400, price=4 * YUAN, amount=Fraction(1600)),
        InvoiceLine(kind="output", tokens=100, price=16 * YUAN, amount=Fraction(1600)),
    ]
    assert [one.kind for one in invoice.transfers] == ["grant", "top_up"]
    assert invoice.is_final
    assert invoice.number == "acme-2025-11-CNY-4"


def test_the_page_says_it_all(db):
    ask(db, "one")
    html = page(made(db), "en", seller="Seller Ltd\nStreet 1", buyer="")
    shown = cells(html)
    assert ["Prompt, from the cache", "600", "", "1.00", "0.000600"] in shown
    assert ["Prompt, computed", "400", "", "4.00", "0.001600"] in shown
    assert ["Completion", "100", "", "16.00", "0.001600"] in shown
    assert ["Sum", "", "", "", "0.003800"] in shown
    assert ["of it from granted balance", "¥ 0.003"] in shown
    assert ["of it from topped-up balance", "¥ 0.0008"] in shown
    assert ["Top-up, 2025-11-24: wire", "0.000000", "10.000000", "10.000000"] in shown
    assert ["After", "0.000000", "9.999200", "9.999200"] in shown
    assert "r1: hit 1 / miss 4 / output 16 CNY per million tokens" in html
    assert "d" * 16 in html
    assert "Seller Ltd<br>Street 1" in html
    assert "Acme Ltd" in html
    assert "Provisional" not in html
    assert made(db)[0].head.hash in html


def test_in_chinese(db):
    ask(db, "one")
    html = page(made(db), "zh")
    assert ["输入（缓存命中）", "600", "", "1.00", "0.000600"] in cells(html)
    assert "账期" in html
    assert 'lang="zh-CN"' in html


def test_both_languages_have_every_word():
    english, chinese = WORDS["en"], WORDS["zh"]
    for field in english.__struct_fields__:
        ours, theirs = getattr(english, field), getattr(chinese, field)
        assert type(ours) is type(theirs)
        if isinstance(ours, dict):
            assert ours.keys() == theirs.keys()
        else:
            assert len(ours) > 0 or field == "discount"
            names = re.findall(r"\{\w+\}", str(ours))
            assert sorted(re.findall(r"\{\w+\}", str(theirs))) == sorted(names)


def test_a_request_belongs_to_the_month_that_it_began_in(db):
    ask(db, "last", at_ms=LAST_MS - 1)  # ends in December
    ask(db, "next", at_ms=LAST_MS)
    (november,) = made(db)
    (december,) = made(db, "2025-12", made_ms=LAST_MS + 40 * DAY_MS)
    (october,) = made(db, "2025-10")
    assert [sum(r.requests for r in i.rules) for i in (october, november, december)] == [0, 1, 1]
    assert november.after == december.before
    assert october.after == november.before == Purses()
    assert [m.kind for m in december.transfers] == []


def test_what_failed_on_our_side_is_listed_and_free(db):
    ask(db, "one", outcome="error")
    ask(db, "two", outcome="restart", counts=Counts())
    ask(db, "three", outcome="disconnect")
    (invoice,) = made(db)
    assert [(u.outcome, u.requests, u.tokens) for u in invoice.uncharged] == [
        ("error", 1, 1100),
        ("restart", 1, 0),
    ]
    assert invoice.total_micro == COST
    assert ["an error of the service", "1", "1,100"] in cells(page([invoice], "en"))


def test_free_tokens_and_discounts_are_shown(db):
    free = quote(free=allowance(miss=300), numerator=1, denominator=2)
    ask(db, "one", quote=free, is_batch=True)
    (rule,) = made(db)[0].rules
    assert rule.lines["miss"].free_tokens == 300
    assert rule.lines["miss"].amount == 100 * 4 // 2
    assert ["Prompt, computed", "400", "300", "4.00 × 1/2", "0.000200"] in cells(
        page(made(db), "en")
    )


def test_an_accepted_result_is_on_the_invoice_of_its_request(db):
    paid = quote(result_micro=2 * YUAN, accept_seconds=60 * 86_400)
    ask(db, "one", quote=paid, at_ms=LAST_MS - 10, worst_micro=3 * YUAN)
    ask(db, "two", quote=paid, at_ms=LAST_MS - 10, worst_micro=3 * YUAN)
    (before,) = made(db)
    assert before.num_unfinished == 2
    assert not before.is_final
    assert "2 requests of it are still open" in page([before], "en")
    with db.transaction():
        ledger.accept(db, "one", True, LAST_MS + DAY_MS)
        ledger.accept(db, "two", False, LAST_MS + DAY_MS)
    (after,) = made(db)
    assert after.num_unfinished == 0
    assert after.total_micro == before.total_micro + 2 * YUAN
    assert after.rules[0].lines["result"].tokens == 1
    assert after.rules[0].requests == 2
    assert ["Accepted results (price each)", "1", "", "2.00", "2.000000"] in cells(
        page([after], "en")
    )


def test_an_open_request_makes_it_provisional(db):
    ask(db, "one", outcome=None)
    (invoice,) = made(db)
    assert (invoice.num_unfinished, invoice.is_final) == (1, False)
    ask(db, "two")
    assert not made(db, made_ms=LAST_MS - 1)[0].is_final


def test_other_tenants_are_not_on_it(db):
    give(db, topped_up=YUAN, tenant="zeta", key="z")
    ask(db, "one", tenant_id="zeta")
    (invoice,) = made(db)
    assert invoice.rules == []
    assert [one.tenant_id for one in invoice.transfers] == ["acme", "acme"]
    assert "Nothing was charged" in page([invoice], "en")


def test_a_second_currency_is_an_invoice_of_its_own(db):
    with db.transaction():
        ledger.top_up(db, "acme", YUAN, "USD", "usd", "", NOON_MS, "test")
    ask(db, "one", quote=quote(currency="USD"))
    ask(db, "two")
    yuan, dollar = made(db)
    assert (yuan.currency, yuan.total_micro) == ("CNY", COST)
    assert (dollar.currency, dollar.total_micro, dollar.granted_micro) == ("USD", COST, 0)
    html = page([yuan, dollar], "en")
    assert html.count("<h1>") == 2
    assert "$ 0.0038" in html


def test_a_tenant_on_credit_owes(db):
    ask(db, "one", tenant_id="late", worst_micro=0)
    (invoice,) = made(db, tenant="late")
    assert invoice.after.total_micro == -COST
    assert ["Owed at the end of the period", "¥ 0.0038"] in cells(page([invoice], "en"))


def test_notes_and_names_cannot_be_markup(db):
    with db.transaction():
        ledger.top_up(db, "acme", 1, "CNY", "k", "<script>x</script>", NOON_MS, "test")
    html = page(made(db), "en", seller="<b>", buyer="<i>")
    assert not re.search(r"<(script|b|i)>", html)


def test_a_ledger_that_contradicts_itself_has_no_invoice(db):
    ask(db, "one")
    (invoice,) = made(db)
    invoice.after = Purses(topped_up_micro=1)
    with pytest.raises(StorageFailed, match="ledger verify"):
        invoice.check()


PRICES = st.integers(0, 40 * YUAN)
TOKENS = st.integers(0, 100_000)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(TOKENS, TOKENS, TOKENS, st.sampled_from([(1, 1), (1, 2), (1, 3)])),
        min_size=1,
        max_size=8,
    ),
    PRICES,
    PRICES,
    PRICES,
)
def test_printed_columns_add_up(asked, hit, miss, output):
    db = database()
    give(db, granted=1_234_567, topped_up=10**12)
    for index, (cached, missed, spoken, (numerator, denominator)) in enumerate(asked):
        ask(
            db,
            str(index),
            Counts(prompt_tokens=cached + missed, cached_tokens=cached, completion_tokens=spoken),
            quote=quote(
                hit=hit, miss=miss, output=output, numerator=numerator, denominator=denominator
            ),
            worst_micro=0,
        )
    (invoice,) = made(db)
    html = page([invoice], "en")
    blocks = re.findall(r'<div class="rule">.*?</div>', html)
    assert len(blocks) == len({discount for *_, discount in asked})
    total = Decimal(0)
    for block in blocks:
        rows = [row for row in cells(block) if row]
        *lines, last = (number(row[-1]) for row in rows)
        assert sum(lines) == last
        total += last
    rows = cells(html)
    assert total == next(number(row[1]) for row in rows if row[:1] == ["Total"])
    before, *moved, after = (row for row in rows if len(row) == 4)
    for purse in (1, 2, 3):
        column = [number(row[purse]) for row in (before, *moved)]
        assert sum(column) == number(after[purse])
    charged = db.rows("SELECT sum(charged_micro) FROM usage")[0][0]
    assert invoice.total_micro == charged
    db.close()
