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
from tribody.billing import ledger
from tribody.billing.invoice import Invoice, InvoiceLine, lines_of
from tribody.billing.invoice_html import page
from tribody.billing.invoice_words import WORDS
from tribody.billing.periods import month_bounds_ms
from tribody.billing.queries import invoices
from tribody.billing.statements import Purses
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


def made(db, month="2025-11", made_ms=LAST_MS + 100 * DAY_MS, tenant="acme") -> list[Invoice]:
    return invoices(db, tenant, "Acme Ltd", "CNY", month, made_ms)


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
    assert (invoice.granted_micro, invoice.topped_up_micro) == (3000, 800)
    assert invoice.statement.opening == Purses()
    assert invoice.statement.closing == Purses(0, 10 * YUAN - 800)
    (rule,) = invoice.statement.rules
    assert (rule.model, rule.quote.rule_id, rule.requests, rule.micro) == ("r1", "r1", 1, COST)
    assert lines_of(rule) == [
        InvoiceLine("hit", 600, 0, YUAN, Fraction(600)),
        InvoiceLine("miss", 400, 0, 4 * YUAN, Fraction(1600)),
        InvoiceLine("output", 100, 0, 16 * YUAN, Fraction(1600)),
    ]
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
    assert ["of it from granted balance", "¥ 0.003000"] in shown
    assert ["of it from topped-up balance", "¥ 0.000800"] in shown
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


def test_a_request_belongs_to_the_month_that_it_ended_in(db):
    ask(db, "last", at_ms=LAST_MS - 5001)
    ask(db, "next", at_ms=LAST_MS - 5000)  # ends in December
    (november,) = made(db)
    (december,) = made(db, "2025-12")
    (october,) = made(db, "2025-10")
    of = [invoice.statement for invoice in (october, november, december)]
    assert [sum(rule.requests for rule in one.rules) for one in of] == [0, 1, 1]
    assert of[1].closing == of[2].opening
    assert of[0].closing == of[1].opening == Purses()


def test_what_failed_on_our_side_is_listed_and_free(db):
    ask(db, "one", outcome="error")
    ask(db, "two", outcome="restart", counts=Counts())
    ask(db, "three", outcome="disconnect")
    (invoice,) = made(db)
    assert [(row.outcome, row.requests, row.prompt_tokens) for row in invoice.uncharged] == [
        ("error", 1, 1000),
        ("restart", 1, 0),
    ]
    assert invoice.total_micro == COST
    assert ["an error of the service", "1", "1,100"] in cells(page([invoice], "en"))


def test_free_tokens_and_discounts_are_shown(db):
    free = quote(free=allowance(miss=300), numerator=1, denominator=2)
    ask(db, "one", quote=free, is_batch=True)
    (rule,) = made(db)[0].statement.rules
    assert lines_of(rule)[1] == InvoiceLine("miss", 400, 300, 4 * YUAN, Fraction(200))
    assert ["Prompt, computed", "400", "300", "4.00 × 1/2", "0.000200"] in cells(
        page(made(db), "en")
    )


def test_accepted_results_are_lines_of_their_rule(db):
    paid = quote(result_micro=2 * YUAN, accept_seconds=60 * 86_400)
    ask(db, "one", quote=paid, worst_micro=3 * YUAN)
    ask(db, "two", quote=paid, worst_micro=3 * YUAN)
    (before,) = made(db)
    with db.transaction():
        ledger.accept(db, "one", True, NOON_MS + DAY_MS)
        ledger.accept(db, "two", False, NOON_MS + DAY_MS)
    (after,) = made(db)
    assert after.total_micro == before.total_micro + 2 * YUAN
    (rule,) = after.statement.rules
    assert lines_of(rule)[-1] == InvoiceLine("result", 1, 0, 2 * YUAN, Fraction(2 * YUAN))
    assert rule.requests == 2
    assert ["Accepted results (price each)", "1", "", "2.00", "2.000000"] in cells(
        page([after], "en")
    )


def test_a_month_that_is_not_over_is_provisional(db):
    ask(db, "one")
    (invoice,) = made(db, made_ms=LAST_MS - 1)
    assert not invoice.is_final
    assert "Provisional" in page([invoice], "en")


def test_other_tenants_are_not_on_it(db):
    give(db, topped_up=YUAN, tenant="zeta", key="z")
    ask(db, "one", tenant_id="zeta")
    (invoice,) = made(db)
    assert invoice.statement.rules == []
    payers = [line.transfer and line.transfer.tenant_id for line in invoice.statement.lines]
    assert payers == ["acme", "acme"]
    assert "Nothing was charged" in page([invoice], "en")


def test_a_second_currency_is_an_invoice_of_its_own(db):
    with db.transaction():
        ledger.top_up(db, "acme", YUAN, "USD", "usd", "", NOON_MS, "test")
    ask(db, "one", quote=quote(currency="USD"))
    ask(db, "two")
    yuan, dollar = made(db)
    assert (yuan.statement.currency, yuan.total_micro) == ("CNY", COST)
    assert (dollar.statement.currency, dollar.total_micro) == ("USD", COST)
    assert (dollar.granted_micro, dollar.topped_up_micro) == (0, COST)
    html = page([yuan, dollar], "en")
    assert html.count("<h1>") == 2
    assert "$ 0.003800" in html


def test_a_tenant_on_credit_owes(db):
    ask(db, "one", tenant_id="late", worst_micro=0)
    (invoice,) = made(db, tenant="late")
    assert invoice.statement.closing.total_micro == -COST
    assert ["Owed at the end of the period", "¥ 0.003800"] in cells(page([invoice], "en"))


def test_notes_and_names_cannot_be_markup(db):
    with db.transaction():
        ledger.top_up(db, "acme", 1, "CNY", "k", "<script>x</script>", NOON_MS, "test")
    html = page(made(db), "en", seller="<b>", buyer="<i>")
    assert not re.search(r"<(script|b|i)>", html)


def test_a_ledger_that_contradicts_itself_has_no_invoice(db):
    ask(db, "one")
    (invoice,) = made(db)
    invoice.check(Purses(0, 10 * YUAN - 800))
    with pytest.raises(StorageFailed, match="ledger verify"):
        invoice.check(Purses(0, 10 * YUAN - 801))


PRICES = st.integers(0, 40 * YUAN)
TOKENS = st.integers(0, 100_000)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(TOKENS, TOKENS, TOKENS), min_size=1, max_size=8),
    st.sampled_from([(1, 1), (1, 2), (1, 3)]),
    PRICES,
    PRICES,
    PRICES,
)
def test_printed_columns_add_up(asked, discount, hit, miss, output):
    numerator, denominator = discount
    db = database()
    give(db, granted=1_234_567, topped_up=10**12)
    for index, (cached, missed, spoken) in enumerate(asked):
        ask(
            db,
            str(index),
            Counts(prompt_tokens=cached + missed, cached_tokens=cached, completion_tokens=spoken),
            quote=quote(
                hit=hit, miss=miss, output=output, numerator=numerator, denominator=denominator
            ),
            worst_micro=0,
            is_batch=True,
        )
    (invoice,) = made(db)
    html = page([invoice], "en")
    blocks = re.findall(r'<div class="rule">.*?</div>', html)
    assert len(blocks) == 1
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
