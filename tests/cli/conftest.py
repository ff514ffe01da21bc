"""The console script on a database of its own, and requests in it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.billing.ledger_cases import COUNTS, NOON_MS, reservation, usage
from tribody.billing import ledger
from tribody.cli.main import main
from tribody.core.metering import Counts
from tribody.storage.opening import open_database


@dataclass
class Ended:
    """One run of the command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class Desk:
    """Whoever sits at it types commands; its data folder is `folder`."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str, fails: bool = False) -> Ended:
        """Words as typed; the data folder is added unless the command has none."""
        return self.plain(*words, "--data-dir", str(self.folder), fails=fails)

    def plain(self, *words: str, fails: bool = False) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["tribody", *words])
        self._capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = self._capsys.readouterr()
        assert "Traceback" not in printed.err
        assert (code != 0) == fails, (code, printed.out, printed.err)
        return Ended(code, printed.out, printed.err)

    def ask(
        self, request_id: str, counts: Counts = COUNTS, outcome: Any = "finished", **changes: Any
    ) -> None:
        """A request of the tenant `acme`, charged."""
        db = open_database(self.folder / "accounts.db")
        at_ms = changes.get("at_ms", NOON_MS)
        with db.transaction():
            ledger.reserve(db, reservation(request_id, **changes))
            ledger.settle(db, request_id, counts, outcome, at_ms + 5000)
        db.close()

    def record(self, request_id: str, **changes: Any) -> None:
        """A request of a server without accounts."""
        self.folder.mkdir(exist_ok=True)
        db = open_database(self.folder / "accounts.db")
        with db.transaction():
            ledger.record(db, usage(request_id, **changes))
        db.close()


@pytest.fixture
def desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    monkeypatch.delenv("TRIBODY_DATABASE", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return Desk(tmp_path / "data", monkeypatch, capsys)


@pytest.fixture
def acme(desk: Desk) -> Desk:
    """With the tenant `acme`, who has paid 10 yuan and was given 0.003."""
    desk("tenants", "add", "acme", "--name", "Acme Ltd")
    desk("ledger", "top-up", "acme", "10", "--note", "wire")
    desk("ledger", "grant", "acme", "0.003")
    return desk
