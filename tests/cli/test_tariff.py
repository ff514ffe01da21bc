"""`tribody tariff`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Desk
from tribody.billing.tariffs import SHIPPED, shipped

PRICES = """
title = "Two models"
currency = "CNY"

[[rule]]
id = "r1"
models = ["r1"]
from = 2025-01-01T00:00:00+08:00
hit = 1
miss = 4
output = 16
"""
GAP = (
    PRICES
    + """
[[rule]]
id = "r1-batch-again"
models = ["r1"]
from = 2025-06-01T00:00:00+08:00
hit = 1
miss = 4
output = 16
"""
)


@pytest.fixture
def prices(tmp_path: Path) -> str:
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    return str(path)


def test_examples_ship_and_are_right(desk: Desk, tmp_path: Path) -> None:
    listed = desk.plain("tariff", "list").out
    for name in SHIPPED:
        assert name in listed
        text = desk.plain("tariff", "example", name).out
        assert text == shipped(name)
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        assert desk.plain("tariff", "check", str(path)).code == 0
    refused = desk.plain("tariff", "example", "nothing", fails=True)
    assert refused.code == 2
    assert "start" in refused.err


def test_check_finds_overlaps(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(GAP)
    refused = desk.plain("tariff", "check", str(path), fails=True)
    assert refused.code == 1
    assert "error: " in refused.out
    assert "r1-batch-again" in refused.out
    refused = desk("tariff", "use", str(path), fails=True)
    assert refused.code == 2
    assert "tariff check" in refused.err


def test_use_show_list(desk: Desk, prices: str, tmp_path: Path) -> None:
    assert "is in use from now on" in desk("tariff", "use", prices).out
    assert "was in use already" in desk("tariff", "use", prices).out
    assert desk("tariff", "show").out == PRICES
    other = tmp_path / "other.toml"
    other.write_text(PRICES.replace("16", "17").replace("Two", "Three"))
    second = desk("tariff", "use", str(other), "--json").json
    assert second["was_in_use"] is False
    listed = desk("tariff", "list", "--json").json
    assert [one["title"] for one in listed["uses"]] == ["Two models", "Three models"]
    assert listed["uses"][1]["digest"] == second["digest"]
    assert set(listed["examples"]) == set(SHIPPED)
    assert desk("tariff", "show", listed["uses"][0]["digest"][:8]).out == PRICES
    assert "Three models" in desk("tariff", "list").out
    refused = desk("tariff", "show", "zzzz", fails=True)
    assert "0 lists" in refused.err
    assert "at least 4" in desk("tariff", "show", second["digest"][:2], fails=True).err


def test_price(desk: Desk, prices: str) -> None:
    asked = ("tariff", "price", "r1", "--prompt", "1000", "--cached", "600", "--completion", "100")
    found = desk(*asked, "--file", prices)
    assert "0.003800 CNY" in found.out
    assert "r1: hit 1 / miss 4 / output 16 CNY per million tokens" in found.out
    desk("tariff", "use", prices)
    assert desk(*asked, "--json").json["priced"]["total_micro"] == 3800
    early = desk(*asked, "--at", "2024-12-31T23:59:59", fails=True)
    assert early.code == 2
    assert "no price" in early.err
    assert desk(*asked, "--at", "2025-01-01").code == 0
    assert "no price" in desk("tariff", "price", "v9", fails=True).err


def test_peaks_of_the_shipped_history(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "deepseek.toml"
    path.write_text(shipped("deepseek"))
    asked = ("tariff", "price", "deepseek-reasoner", "--completion", "1000000", "--file", str(path))
    night = desk.plain(*asked, "--at", "2025-03-01T00:30", "--json").json
    day = desk.plain(*asked, "--at", "2025-03-01T08:30", "--json").json
    assert (night["priced"]["total_micro"], day["priced"]["total_micro"]) == (4_000_000, 16_000_000)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("check", "/nowhere.toml"), "cannot be read"),
        (("price", "r1"), "there is no "),
        (("show",), "there is no "),
    ],
)
def test_what_is_refused(desk: Desk, words: tuple[str, ...], says: str) -> None:
    run = desk.plain if words[0] == "check" else desk
    refused = run("tariff", *words, fails=True)
    assert refused.code == 2
    assert says in refused.err


def test_numbers_that_contradict_each_other(desk: Desk, prices: str) -> None:
    for words in (("--cached", "1"), ("--reasoning", "1")):
        refused = desk("tariff", "price", "r1", *words, "--file", prices, fails=True)
        assert "is above" in refused.err


def test_text_that_is_no_price_list(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for text in ("", "title = 1", "\xff", "[[rule]]"):
        path.write_bytes(text.encode("latin-1"))
        assert desk.plain("tariff", "check", str(path), fails=True).code == 2


def test_no_list_in_use(desk: Desk) -> None:
    desk("tenants", "add", "acme")
    assert "tariff use FILE" in desk("tariff", "show", fails=True).err
    assert "--file FILE" in desk("tariff", "price", "r1", fails=True).err
