"""The admin API keeps what its /openapi.json promises: schemathesis asks, in every way it knows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.admin.admin_server import AdminServer
from tribody.billing.verify import verify
from tribody.server.admin.routes import ROUTES

pytest.importorskip("schemathesis", reason="not in this environment: see requirements/test.txt")

CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_operation_with_a_hundred_examples(server: AdminServer) -> None:
    """The same seed every time; afterwards the ledger is right, whatever was asked."""
    with server.client() as http:
        assert http.post("/admin/tenants", json={"id": "acme"}).status_code == 200
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    done = subprocess.run(
        [*command, f"{server.url}/openapi.json", "--no-color", "-n", "100", "--seed", "1"],
        cwd=CONFIG.parents[3],
        env={**os.environ, "TRIBODY_ADMIN_TOKEN": server.token},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    shown = "\n".join(line[:1000] for line in done.stdout.splitlines())
    assert done.returncode == 0, shown[-20_000:]
    tested = re.search(r"Tested: (\d+)", shown)
    assert tested, shown
    assert int(tested[1]) == len(ROUTES)
    report = server.writer.submit(verify).result()
    assert report.problems == []
