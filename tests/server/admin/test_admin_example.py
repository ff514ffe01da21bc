"""`serve --accounts` with its admin API as users start it: examples/admin.sh, word for word."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.bookkeeping import charge
from tests.server.shipped import started
from tribody.server.admin.amounts import amount_text

EXAMPLE = Path(__file__).parents[3] / "examples" / "admin.sh"
YUAN = 1_000_000


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example needs curl")
def test_a_tenant_from_nothing_to_its_statement(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started("scripted", "--accounts", "--data-dir", str(data)) as server:
        assert stat.S_IMODE((data / "admin-token").stat().st_mode) == 0o600
        environment = {
            "PATH": os.environ["PATH"],
            "DATA_DIR": str(data),
            "TRIBODY_URL": server.url,
            "TRIBODY_ADMIN_URL": server.admin_url,
        }
        done = subprocess.run(
            ["sh", str(EXAMPLE)], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        with httpx2.Client(verify=False) as client:  # the public API has no such routes
            assert client.get(f"{server.url}/admin/tenants").status_code == 401
    parts = done.stdout.split("# ")[1:]
    answers = [[json.loads(line) for line in part.splitlines()[1:]] for part in parts]
    _prices, (_, granted), paid, (made,), (answer,), balances, sums, (verified,), (gone,) = answers
    assert granted["balances"][0]["granted"] == "10.00"
    assert paid[0] == paid[1]
    assert made["key"] == "sk-..."
    check_money(answer["usage"], balances, sums)
    assert (verified["state"], verified["ok"], verified["charges"]) == ("ended", True, 1)
    assert gone["revoked_ms"] is not None


def check_money(
    usage: dict[str, Any], balances: list[dict[str, Any]], sums: list[dict[str, Any]]
) -> None:
    """The tenant's view (in whole fen), the operator's and the engine's own count."""
    hit, miss = usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]
    micro = charge(hit, miss, usage["completion_tokens"])
    assert 0 < micro < YUAN / 100
    left = amount_text(110 * YUAN - micro)
    [theirs], [ours] = balances[0]["balance_infos"], balances[1]["data"]
    assert ours["total"] == left
    assert theirs["total_balance"] == "109.99"
    assert ours["granted"] == amount_text(10 * YUAN - micro)
    statement, grouped = sums
    assert statement["charged"] == amount_text(micro)
    assert statement["closing"]["total"] == left
    [row] = grouped["data"]
    assert row["charged"] == amount_text(micro)
    assert row["completion_tokens"] == usage["completion_tokens"]
