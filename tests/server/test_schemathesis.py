"""The server keeps what /openapi.json promises: schemathesis asks, in every way that it knows.

Valid and invalid requests, all checks; what may be answered is in schemathesis.toml, what a 400 may
say in schemathesis_hooks.  The server is a process of its own, as users start it, with a key.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.shipped import serving
from tribody.server.routes import ROUTES

pytest.importorskip("schemathesis", reason="not in this environment: see requirements/test.txt")

KEY = "a-key-that-schemathesis-has"
CONFIG = Path(__file__).with_name("schemathesis.toml")
ROOT = CONFIG.parents[2]
FIRST_PATHS = sorted({route.paths[0].replace(":path}", "}") for route in ROUTES})


def ask(tmp_path: Path, *shares: list[str]) -> list[str]:
    """What `st run` reports of each share of the work; one process each, all at once."""
    keys, data = tmp_path / "keys", tmp_path / "data"
    keys.write_text(KEY)
    with serving("scripted", "--api-key-file", str(keys), "--data-dir", str(data)) as url:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        running = [
            subprocess.Popen(
                [*command, f"{url}/openapi.json", "--no-color", *options],
                cwd=ROOT,
                env={**os.environ, "TRIBODY_KEY": KEY},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for options in shares
        ]
        # The second may wait for the first to be read: their pipes are small beside what they do.
        reports = [process.communicate()[0] for process in running]
    for process, report in zip(running, reports, strict=True):
        shown = "\n".join(line[:1000] for line in report.splitlines())
        assert process.returncode == 0, shown[-20_000:]
    return reports


def number_tested(report: str) -> int:
    found = re.search(r"Tested: (\d+)", report)
    assert found, report
    return int(found[1])


def test_every_operation_with_a_hundred_examples(tmp_path: Path) -> None:
    """By the first of each route's paths; the same seed every time."""
    shares = [
        ["-n", "100", "--seed", "1", *(o for path in half for o in ("--include-path", path))]
        for half in (FIRST_PATHS[::2], FIRST_PATHS[1::2])
    ]
    assert sum(number_tested(report) for report in ask(tmp_path, *shares)) == len(ROUTES)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_path_with_a_thousand_examples(tmp_path: Path) -> None:
    (report,) = ask(tmp_path, ["-n", "1000"])
    assert number_tested(report) == sum(len(route.paths) for route in ROUTES)
    print(report[report.index("=== SUMMARY") :])
