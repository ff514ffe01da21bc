"""`tribody tenants` and `tribody users`."""

from __future__ import annotations

import os
import stat

import pytest

from tests.cli.conftest import Desk


def test_a_tenant_is_added_shown_changed_and_listed(desk: Desk) -> None:
    added = desk(
        *("tenants", "add", "acme", "--name", "Acme Ltd", "--weight", "3", "--credit", "5.5"),
        *("--limit", "concurrency=8", "--limit", "money-per-month=1000.50"),
        *("--limit", "tokens-per-day=2M", "--slo", "background", "--api", "profile=2025"),
        "--json",
    ).json
    tenant = added["tenant"]
    assert tenant["name"] == "Acme Ltd"
    assert tenant["credit_micro"] == 5_500_000
    assert tenant["limits"] == {
        "concurrency": 8,
        "requests_per_minute": 0,
        "tokens_per_minute": 0,
        "tokens_per_day": 2_000_000,
        "tokens_per_month": 0,
        "micro_per_day": 0,
        "micro_per_month": 1_000_500_000,
    }
    changed = desk("tenants", "set", "acme", "--limit", "concurrency=0", "--weight", "2")
    assert "money-per-month=1,000.50" in changed.out
    assert "concurrency" not in changed.out
    shown = desk("tenants", "show", "acme", "--json").json
    assert shown["tenant"]["weight"] == 2
    assert shown["tenant"]["slo"] == "background"
    assert shown["tenant"]["api"] == "profile=2025"
    listed = desk("tenants", "list").out
    assert "Acme Ltd" in listed
    assert "active" in listed
    assert [view["tenant"]["id"] for view in desk("tenants", "list", "--json").json] == ["acme"]


def test_pause_and_resume(desk: Desk) -> None:
    desk("tenants", "add", "acme")
    assert desk("tenants", "pause", "acme", "--json").json["tenant"]["is_paused"] is True
    assert "paused" in desk("tenants", "list").out
    assert desk("tenants", "resume", "acme", "--json").json["tenant"]["is_paused"] is False


def test_users(desk: Desk) -> None:
    desk("tenants", "add", "acme")
    desk("users", "add", "acme", "ann", "--name", "Ann Example")
    assert "Ann Example" in desk("users", "list", "acme").out
    assert [user["id"] for user in desk("users", "list", "acme", "--json").json] == ["ann"]
    assert "ann" in desk("tenants", "show", "acme").out
    refused = desk("users", "add", "acme", "ann", fails=True)
    assert refused.code == 2
    assert "already" in refused.err


def test_changes_say_who_and_what(desk: Desk) -> None:
    desk("tenants", "add", "acme")
    desk("tenants", "set", "acme", "--weight", "4")
    changes = desk("tenants", "changes", "--json").json
    assert [(one["what"], one["subject"]) for one in changes] == [
        ("tenant-added", "acme"),
        ("tenant-changed", "acme"),
    ]
    assert all(one["who"].startswith("cli: ") for one in changes)
    assert "[1,4]" in desk("tenants", "changes", "--after", "1").out
    assert "tenant-added" not in desk("tenants", "changes", "--after", "1").out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "Acme"), "'Acme' is not 1 to 63"),
        (("add", "acme", "--currency", "EUR"), "EUR"),
        (("add", "acme", "--slo", "soon"), "soon"),
        (("add", "acme", "--weight", "0"), "weight is 0"),
        (("add", "acme", "--credit", "-1"), "credit_micro is -1000000"),
        (("add", "acme", "--credit", "1.0000001"), "--credit '1.0000001' is not an amount"),
        (("add", "acme", "--limit", "speed=3"), "--limit 'speed=3' is not NAME=NUMBER"),
        (("add", "acme", "--limit", "concurrency"), "is not NAME=NUMBER"),
        (("add", "acme", "--limit", "concurrency=many"), "'many' is not a whole number"),
        (("add", "acme", "--limit", "concurrency=-1"), "'-1' is not a whole number"),
        (("add", "acme", "--limit", "concurrency=1", "--limit", "concurrency=2"), "given twice"),
        (("add", "acme", "--api", "colour=red"), "colour"),
        (("add", "acme", "--name", "a\nb"), "not printable"),
    ],
)
def test_what_is_refused(desk: Desk, words: tuple[str, ...], says: str) -> None:
    refused = desk("tenants", *words, fails=True)
    assert refused.code == 2
    assert says in refused.err


def test_what_is_not_there(desk: Desk) -> None:
    refused = desk("tenants", "list", fails=True)
    assert refused.code == 2
    assert "--data-dir" in refused.err
    assert not desk.folder.exists()
    desk("tenants", "add", "acme")
    assert "no tenant 'zeta'" in desk("tenants", "show", "zeta", fails=True).err
    assert "no tenant 'zeta'" in desk("tenants", "pause", "zeta", fails=True).err
    assert "already" in desk("tenants", "add", "acme", fails=True).err
    assert "nothing is to be changed" in desk("tenants", "set", "acme", fails=True).err


def test_a_database_that_is_no_address(desk: Desk) -> None:
    refused = desk.plain("tenants", "list", "--database", "accounts.db", fails=True)
    assert refused.code == 2
    assert "postgresql://" in refused.err


def test_the_folder_is_closed_to_others(desk: Desk) -> None:
    desk("tenants", "add", "acme")
    assert stat.S_IMODE(os.stat(desk.folder).st_mode) == 0o700


def test_a_name_cannot_steer_the_terminal(desk: Desk) -> None:
    desk("tenants", "add", "acme", "--name", "[bold]x[/bold] :smile:")
    assert "[bold]x[/bold] :smile:" in desk("tenants", "list").out
