"""docs/operator.md: its commands are run, in its order."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Desk
from tribody.billing import ledger
from tribody.billing.periods import month
from tribody.billing.records import Reservation
from tribody.billing.tariff_store import current_tariff
from tribody.core.metering import Counts
from tribody.storage.opening import open_database

TEXT = (Path(__file__).parents[2] / "docs" / "operator.md").read_text("utf-8")
COUNTS = Counts(prompt_tokens=1000, cached_tokens=600, completion_tokens=100)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def answer_requests(folder: Path, now_ms: int) -> None:
    """What a server would book."""
    db = open_database(folder / "accounts.db")
    tariff = current_tariff(db)
    assert tariff is not None
    with db.transaction():
        for index in range(3):
            at_ms = now_ms - 5000
            quote = tariff.find(
                model="mini-r1", tenant_id="acme", at_ms=at_ms, prompt_tokens=1000, is_batch=False
            )
            ledger.reserve(
                db,
                Reservation(
                    request_id=str(index),
                    node_id="node",
                    tenant_id="acme",
                    user_id="ann",
                    key_id="key-1",
                    model="mini-r1",
                    route="chat",
                    at_ms=at_ms,
                    prompt_tokens=1000,
                    quote=quote,
                    worst_micro=10_000,
                ),
            )
            ledger.settle(db, str(index), COUNTS, "finished", now_ms)
    db.close()


def test_the_page_runs(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    now_ms = time.time_ns() // 1_000_000
    (prices,) = blocks("toml")
    Path("prices.toml").write_text(prices)
    said: dict[str, str] = {}
    for line in "".join(blocks("sh")).replace("2026-11", month(now_ms)).splitlines():
        assignment = re.fullmatch(r"KEY=\$\((.*)\)", line)
        words = shlex.split(assignment[1] if assignment else line)
        assert words[0] == "tribody"
        if words[1] == "serve":
            answer_requests(desk.folder, now_ms)
            continue
        has_no_data = words[1:3] == ["tariff", "check"]
        ended = (desk.plain if has_no_data else desk)(*words[1:])
        said[" ".join(words[1:3])] = ended.out
    assert re.fullmatch(r"sk-\w{43}\n", said["keys create"])
    assert "2.520000 CNY" in said["tariff price"]  # 0.6 x 0.2 + 0.4 x 2 + 0.2 x 8
    assert "100.49484" in said["ledger balance"]  # less three times 0.00172
    assert "all right" in said["ledger verify"]
    assert "0.005160" in Path("invoice.html").read_text("utf-8")
    assert "acme" in Path("usage.html").read_text("utf-8")
    assert len(Path("records.csv").read_text().splitlines()) == 4
    assert "acme" in Path("usage.csv").read_text()
    assert "0.00516" in said["ledger replay"]
