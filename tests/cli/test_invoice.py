"""`tribody invoice`."""

from __future__ import annotations

from pathlib import Path

from tests.billing.ledger_cases import COST
from tests.cli.conftest import Desk


def test_an_invoice(acme: Desk, tmp_path: Path) -> None:
    acme.ask("one")
    path = tmp_path / "invoice.html"
    said = acme(
        *("invoice", "acme", "--month", "2025-11", "--out", str(path)),
        *("--seller", "Seller Ltd\nStreet 1", "--language", "zh"),
    )
    assert "charged    0.0038 CNY" in said.out
    assert str(path) in said.out
    html = path.read_text("utf-8")
    assert "账单" in html
    assert "Seller Ltd<br>Street 1" in html
    assert "Acme Ltd" in html
    assert "0.003800" in html
    (view,) = acme("invoice", "acme", "--month", "2025-11", "--json").json
    assert view["total_micro"] == COST
    assert view["is_final"] is True
    assert view["granted_micro"] == 3000


def test_an_empty_month(acme: Desk) -> None:
    assert "charged    0.00 CNY" in acme("invoice", "acme", "--month", "2024-02").out
    later = acme("invoice", "acme", "--month", "2999-12")
    assert "provisional" in later.out


def test_what_is_refused(acme: Desk, tmp_path: Path) -> None:
    month = ("--month", "2025-11")
    assert "no tenant 'zeta'" in acme("invoice", "zeta", *month, fails=True).err
    assert "not a month" in acme("invoice", "acme", "--month", "November", fails=True).err
    assert "--language" in acme("invoice", "acme", *month, "--language", "fr", fails=True).err
    nowhere = tmp_path / "nowhere" / "x.html"
    refused = acme("invoice", "acme", *month, "--out", str(nowhere), fails=True)
    assert refused.code == 2
    assert "cannot be written" in refused.err
