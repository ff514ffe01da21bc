"""Price lists in the ledger."""

from __future__ import annotations

import pytest

from tests.billing.ledger_cases import NOON_MS, database
from tribody.billing import ledger
from tribody.billing.tariffs import shipped
from tribody.core.errors import BadTariff
from tribody.storage.revisions import revisions

PLAIN = """
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


@pytest.fixture
def db():
    opened = database()
    with opened.transaction():
        yield opened
    opened.close()


def use(db, text, at_ms=NOON_MS):
    return ledger.use_tariff(db, text, at_ms, "root")


def current(db):
    tariff = ledger.current_tariff(db)
    assert tariff is not None
    return tariff


def test_before_the_first_there_is_none(db):
    assert ledger.current_tariff(db) is None
    assert ledger.stored_tariff(db, "d" * 64) is None


def test_the_last_one_is_in_use_and_every_one_is_kept(db):
    first, second = use(db, PLAIN), use(db, shipped("deepseek"))
    assert current(db).digest == second.digest
    assert db.rows("SELECT text FROM tariffs WHERE digest = ?", (first.digest,)) == [(PLAIN,)]
    stored = ledger.stored_tariff(db, first.digest)
    assert stored is not None
    assert stored.digest == first.digest
    assert revisions(db) == {"tariffs": 2}
    third = use(db, PLAIN, NOON_MS - 1)  # a clock that went back does not matter
    assert current(db).digest == third.digest == first.digest
    assert db.rows("SELECT count(*) FROM tariffs") == [(2,)]
    assert db.rows("SELECT sequence, digest FROM tariff_uses ORDER BY sequence") == [
        (1, first.digest),
        (2, second.digest),
        (3, first.digest),
    ]


def test_the_one_in_use_is_not_used_again(db):
    use(db, PLAIN)
    assert use(db, PLAIN, NOON_MS + 1).text == PLAIN
    assert db.rows("SELECT kind, at_ms, tenant_id, request_id, detail FROM entries") == [
        (
            "tariff",
            NOON_MS,
            "",
            "",
            f'{{"digest":"{current(db).digest}","who":"root"}}',
        )
    ]
    assert revisions(db) == {"tariffs": 1}


def test_a_bad_list_changes_nothing(db):
    use(db, PLAIN)
    gap = PLAIN.replace('models = ["*"]', 'models = ["a"]\nfrom = 2025-01-01T00:00:00+08:00\n')
    contradiction = PLAIN + PLAIN[PLAIN.index("[[rule]]") :].replace('"all"', '"too"')
    for bad in ("title =", contradiction):
        with pytest.raises(BadTariff):
            use(db, bad)
    with pytest.raises(BadTariff, match=r"[^)]; `tribody tariff check` lists them all"):
        use(db, contradiction)
    rule = PLAIN[PLAIN.index("[[rule]]") :].replace('"*"', '"b"')
    two = contradiction + rule.replace('"all"', '"b1"') + rule.replace('"all"', '"b2"')
    with pytest.raises(BadTariff, match=r" \(and 1 more\); `tribody tariff check` lists them all"):
        use(db, two)
    assert current(db).text == PLAIN
    assert use(db, gap).text == gap
