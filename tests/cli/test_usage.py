"""`tribody usage`, `reconcile` and `margin`."""

from __future__ import annotations

import csv
import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest

from tests.billing.ledger_cases import COST, COUNTS, NOON_MS, YUAN, quote
from tests.cli.conftest import Desk
from tribody.billing.periods import day_bounds_ms
from tribody.core.metering import Counts

DAY_MS = 86_400_000
NOVEMBER = ("--month", "2025-11")
UPSTREAM = """
currency = "CNY"

[[rule]]
id = "all"
models = ["r1", "v3"]
hit = "0.5"
miss = 2
output = 8
"""


@pytest.fixture
def busy(acme: Desk) -> Desk:
    """Three charged requests on two days, and one of a server without accounts."""
    acme.ask("one")
    acme.ask("two", model="v3")
    acme.ask("three", at_ms=NOON_MS + DAY_MS, key_id="key-2")
    acme.record("four")
    return acme


def test_tables(busy: Desk) -> None:
    shown = busy("usage", *NOVEMBER).out
    assert "2025-11-24" in shown
    assert "60.0%" in shown
    assert "charged 0.0114 CNY" in shown
    assert "4 requests, 4,000 prompt tokens (60.0% cached), 400 completion tokens" in shown
    by_tenant = busy("usage", *NOVEMBER, "--by", "tenant", "--json").json
    assert [(row["tenant"], row["requests"], row["charged_micro"]) for row in by_tenant] == [
        ("acme", 3, 3 * COST),
        ("local", 1, 0),
    ]
    assert by_tenant[0]["hit_rate"] == 0.6
    assert "day" not in by_tenant[0]
    (of_key,) = busy("usage", *NOVEMBER, "--by", "key", "--key", "key-2", "--json").json
    assert (of_key["key"], of_key["requests"]) == ("key-2", 1)
    (of_model,) = busy("usage", *NOVEMBER, "--by", "", "--model", "v3", "--json").json
    assert of_model["requests"] == 1


def test_without_accounts_usage_is_shown(desk: Desk) -> None:
    desk.record("one")
    shown = desk("usage", "--by", "day,tenant", *NOVEMBER).out
    assert "local" in shown
    assert "charged nothing" in shown
    assert "no requests" in desk("usage").out


def test_files(busy: Desk, tmp_path: Path) -> None:
    page, table = tmp_path / "usage.html", tmp_path / "usage.csv"
    said = busy("usage", *NOVEMBER, "--by", "day", "--report", str(page), "--csv", str(table))
    assert str(page) in said.out
    html = page.read_text()
    assert "acme" in html
    assert "local" in html
    assert html.count("<svg") == 4 - 1 + 3 + 2  # one currency
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["day"], row["currency"], row["requests"]) for row in rows] == [
        ("2025-11-24", "", "1"),
        ("2025-11-24", "CNY", "2"),
        ("2025-11-25", "CNY", "1"),
    ]


@pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="the extra [parquet]")
def test_parquet(busy: Desk, tmp_path: Path) -> None:
    import pyarrow.parquet

    path = tmp_path / "usage.parquet"
    busy("usage", *NOVEMBER, "--by", "tenant", "--parquet", str(path))
    table = pyarrow.parquet.read_table(path).to_pydict()
    assert table["tenant"] == ["acme", "local"]
    assert table["charged_micro"] == [3 * COST, 0]


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="matplotlib is optional")
def test_a_picture(busy: Desk, tmp_path: Path) -> None:
    path = tmp_path / "usage.png"
    busy("usage", *NOVEMBER, "--png", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_is_not_installed_is_named(
    busy: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = busy("usage", *NOVEMBER, "--png", str(tmp_path / "x.png"), fails=True)
    assert refused.code == 2
    assert "--report" in refused.err
    refused = busy("usage", *NOVEMBER, "--parquet", str(tmp_path / "x.parquet"), fails=True)
    assert refused.code == 2
    assert "tribody[parquet]" in refused.err


def test_groups_that_are_none(busy: Desk) -> None:
    for text in ("hour", "day,day"):
        assert "at most once" in busy("usage", "--by", text, fails=True).err


# --- reconcile ------------------------------------------------------------------------------------

BILL = """date,model,prompt_cache_hit_tokens,prompt_cache_miss_tokens,completion_tokens,cost
2025-11-24,r1,1200,800,200,0.0038
2025-11-24,v3,600,400,100,0.0019
2025-11-25,r1,600,400,100,0.0019
"""


def bill(folder: Path, text: str, name: str = "bill.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_bill_that_agrees(busy: Desk, tmp_path: Path) -> None:
    said = busy("reconcile", bill(tmp_path, BILL))
    assert said.out == "match 3, differs 0, missing here 0, missing there 0\n"
    prices = bill(tmp_path, UPSTREAM, "upstream.toml")
    found = busy("reconcile", bill(tmp_path, BILL), "--prices", prices, "--json").json
    assert found["summary"]["match"] == 3
    assert [one["expected_micro"] for one in found["findings"]] == [
        {"CNY": 3800},
        {"CNY": 1900},
        {"CNY": 1900},
    ]
    assert "1,200" in busy("reconcile", bill(tmp_path, BILL), "--all").out


def test_what_differs_and_what_is_missing(busy: Desk, tmp_path: Path) -> None:
    text = BILL.replace("r1,600,400,100", "r1,600,400,101").replace("24,v3", "24,v9")
    said = busy("reconcile", bill(tmp_path, text), fails=True)
    assert said.code == 1
    assert "match 1, differs 1, missing here 1, missing there 1" in said.out
    assert "+1" in said.out
    tolerant = busy("reconcile", bill(tmp_path, text), "--tolerance", "1%", fails=True)
    assert "differs 0" in tolerant.out
    renamed = busy("reconcile", bill(tmp_path, text), "--model-name", "v9=v3", fails=True)
    assert "missing here 0" in renamed.out


def test_money_that_differs(busy: Desk, tmp_path: Path) -> None:
    prices = bill(tmp_path, UPSTREAM, "upstream.toml")
    text = BILL.replace("0.0038", "0.0048")
    assert busy("reconcile", bill(tmp_path, text)).code == 0
    said = busy("reconcile", bill(tmp_path, text), "--prices", prices, fails=True)
    assert "differs 1" in said.out
    assert "0.001" in said.out
    charged = busy("reconcile", bill(tmp_path, BILL), "--prices", "charged", fails=True)
    assert "differs 2" in charged.out  # both models of the 24th agree on one of two requests


def test_an_archive_of_bills_and_one_tenant(busy: Desk, tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    head, *rows = BILL.splitlines(keepends=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", head + "".join(rows[:2]).replace("1200,800,200", "600,400,100"))
        archive.writestr("b/c.csv", head + rows[2])
        archive.writestr("readme.txt", "nothing")
    assert busy("reconcile", str(path), "--tenant", "acme").code == 0


def test_months_and_other_columns(busy: Desk, tmp_path: Path) -> None:
    text = "m,engine,out\n2025-11,r1,300\n2025-11,v3,100\n"
    columns = ("--column", "period=m", "--column", "model=engine", "--column", "completion=out")
    assert busy("reconcile", bill(tmp_path, text), *columns).code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tolerance", "2"), "--tolerance '2' is not a share"),
        (("--tolerance", "1e-999999999"), "is not a share"),
        (("--utc-offset", "8"), "--utc-offset '8' is not one"),
        (("--utc-offset", "+25:00"), "is not one"),
        (("--column", "period"), "--column 'period' is not NAME=VALUE"),
        (("--only", "model=none"), "no rows to compare, see --only"),
        (("--currency", "EUR"), "EUR"),
        (("--prices", "/nowhere.toml"), "/nowhere.toml: cannot be read"),
    ],
)
def test_what_is_refused(busy: Desk, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    refused = busy("reconcile", bill(tmp_path, BILL), *words, fails=True)
    assert refused.code == 2
    assert says in refused.err


def test_files_that_are_no_bills(busy: Desk, tmp_path: Path) -> None:
    assert "cannot be read" in busy("reconcile", "/nowhere.csv", fails=True).err
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK")
    assert "cannot be read" in busy("reconcile", str(path), fails=True).err
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00")
    refused = busy("reconcile", str(path), fails=True)
    assert refused.code == 2
    assert "save it as UTF-8" in refused.err


# --- margin ---------------------------------------------------------------------------------------


def test_margin(acme: Desk) -> None:
    first_ms = day_bounds_ms("2025-11-24")[0]
    price = quote(output=100 * YUAN)
    acme.ask("one", Counts(completion_tokens=1_000_000), at_ms=first_ms, quote=price, worst_micro=0)
    acme.record("two", started_ms=first_ms, ended_ms=first_ms + 5000, model="v3", counts=COUNTS)
    words = ("margin", "--cost-per-hour", "1.5", "--nodes", "2", *NOVEMBER)
    found = acme(*words, "--json").json
    days = {(row["day"], row["model"]): row for row in found["days"]}
    assert days["2025-11-24", "r1"]["cost_micro"] == 36 * YUAN
    assert days["2025-11-24", "r1"]["revenue_micro"] == 100 * YUAN
    assert days["2025-11-24", "v3"]["margin_micro"] == -36 * YUAN
    assert days["2025-11-24", ""]["margin_share"] == 0.28
    assert days["2025-11-25", ""]["cost_micro"] == 72 * YUAN
    total = found["whole"][-1]
    assert total["cost_micro"] == 30 * 72 * YUAN
    assert total["model"] == ""
    shown = acme(*words).out
    assert "-36.00" in shown
    assert "28.0%" in shown
    assert "2025-11-01 to 2025-11-30 (UTC+8), nodes: 2" in shown


def test_margin_in_another_currency(acme: Desk, tmp_path: Path) -> None:
    acme.ask("one")
    words = ("margin", "--cost-per-hour", "0.1", "--currency", "USD", *NOVEMBER)
    assert "--rate CNY=NUMBER" in acme(*words, fails=True).err
    path = tmp_path / "margin.csv"
    acme(*words, "--rate", "CNY=0.140000", "--csv", str(path))
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "r1"]
    assert [row["revenue_micro"] for row in rows] == [str(round(COST * 0.14))]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cost-per-hour", "-1"), "below 0"),
        (("--cost-per-hour", "much"), "not an amount"),
        (("--cost-per-hour", "1", "--currency", "EUR"), "EUR"),
        (("--cost-per-hour", "1", "--rate", "EUR=1"), "--rate 'EUR=1'"),
        (("--cost-per-hour", "1", "--rate", "USD=0"), "not above 0"),
        (("--cost-per-hour", "1", "--from", "9000-01-01", "--to", "9000-01-02"), "still to come"),
    ],
)
def test_margins_that_are_refused(acme: Desk, words: tuple[str, ...], says: str) -> None:
    refused = acme("margin", *words, fails=True)
    assert refused.code == 2
    assert says in refused.err
