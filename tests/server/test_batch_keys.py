"""A batch may do what the key may that it came with, as things are when a line is asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.server.bookkeeping import PRICES, Books, client
from tests.server.scripted import Held, RunningServer
from tribody.core.errors import EngineFailed
from tribody.core.principal import Limits
from tribody.server import batch_lines
from tribody.tenancy import store
from tribody.tenancy.records import KeyChange

CHAT = "/v1/chat/completions"


@pytest.fixture
def books(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Books:
    monkeypatch.setattr(batch_lines, "RETRY_SECONDS", 0.01)
    made = Books(tmp_path / "data")
    made.use(PRICES)
    made.add_tenant()
    return made


@pytest.fixture
def running(books: Books) -> Iterator[RunningServer]:
    """Keys that a test adds are known when the server has looked."""
    server, _ = books.serve(data_dir=books.folder)
    yield server
    server.stop()


def known(running: RunningServer, key: str) -> httpx2.Client:
    http = client(running, key)
    until(lambda: http.get("/v1/nothing").status_code != 401)
    return http


def until(is_so: Any) -> None:
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


def begin(http: httpx2.Client, count: int = 1, **fields: Any) -> httpx2.Response:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], **fields}
    lines = "".join(
        json.dumps({"custom_id": f"r{n}", "method": "POST", "url": CHAT, "body": body}) + "\n"
        for n in range(count)
    )
    file = http.post(
        "/v1/files", files={"file": ("in.jsonl", lines.encode())}, data={"purpose": "batch"}
    )
    batch = {"input_file_id": file.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
    return http.post("/v1/batches", json=batch)


def ended(http: httpx2.Client, batch_id: str) -> dict[str, Any]:
    def shown() -> dict[str, Any]:
        return http.get(f"/v1/batches/{batch_id}").json()

    until(lambda: shown()["status"] == "completed")
    return shown()


def errors_of(http: httpx2.Client, batch: dict[str, Any]) -> list[dict[str, Any]]:
    text = http.get(f"/v1/files/{batch['error_file_id']}/content").text
    return [json.loads(line)["response"] for line in text.splitlines()]


def test_a_key_for_batches_alone_asks_for_no_chat(books: Books, running: RunningServer) -> None:
    http = known(running, books.add_key(routes=frozenset({"files", "batches"})))
    answer = begin(http)
    assert answer.status_code == 403
    assert "not for chat" in answer.json()["error"]["message"]
    assert http.get("/v1/batches").json()["data"] == []


def test_lines_reach_the_keys_own_models_alone(books: Books, running: RunningServer) -> None:
    """They ran on behalf of the tenant, which may use every model."""
    http = known(running, books.add_key(models=frozenset({"other"})))
    batch = ended(http, begin(http).json()["id"])
    assert batch["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    assert errors_of(http, batch)[0]["status_code"] in (400, 404)
    assert running.engine.submitted == []


def test_lines_are_their_keys_in_the_books(books: Books, running: RunningServer) -> None:
    key = books.add_key(name="mine")
    http = known(running, key)
    ended(http, begin(http, 3).json()["id"])
    [kept] = store.all_keys(books.db)
    rows = books.db.rows("SELECT key_id, is_batch FROM usage")
    assert rows == [(kept.id, 1)] * 3


@pytest.mark.parametrize("is_revoked", [False, True])
def test_what_a_key_may_no_longer_do_waits(
    books: Books, running: RunningServer, is_revoked: bool
) -> None:
    """A batch may take a day: a key that is paused or revoked meanwhile has an end within a second.
    It went on to the end."""
    http = known(running, books.add_key())
    other = known(running, books.add_key(name="other"))
    held = running.engine.hold = Held(after=0)
    batch_id = begin(http, 40).json()["id"]
    until(lambda: len(running.engine.submitted) == 16)
    key = next(one for one in store.all_keys(books.db) if one.name == "")
    by: dict[str, Any] = {"at_ms": books.now_ms(), "who": "test"}
    if is_revoked:
        store.revoke_key(books.db, key.id, **by)
    else:
        store.change_key(books.db, key.id, KeyChange(is_paused=True), **by)
    until(lambda: http.get("/v1/models").status_code in (401, 403))
    running.engine.hold = None
    held.release()

    def counts() -> dict[str, int]:
        return other.get(f"/v1/batches/{batch_id}").json()["request_counts"]

    until(lambda: counts()["completed"] == 16)
    quick = ended(other, begin(other, 20).json()["id"])
    assert quick["request_counts"]["completed"] == 20, "who waits has no place"
    assert counts() == {"total": 40, "completed": 16, "failed": 0}
    if not is_revoked:
        store.change_key(books.db, key.id, KeyChange(is_paused=False), **by)
        assert ended(other, batch_id)["request_counts"]["completed"] == 40


def test_a_line_that_never_fits_a_minute_is_an_error(books: Books, running: RunningServer) -> None:
    """It waited for room until the batch's day was over."""
    http = known(running, books.add_key(limits=Limits(tokens_per_minute=3)))
    batch = ended(http, begin(http).json()["id"])
    [error] = errors_of(http, batch)
    assert error["status_code"] == 429
    assert "tokens per minute" in error["body"]["error"]["message"]


def test_a_line_is_asked_again_when_an_engine_has_died(
    books: Books, running: RunningServer
) -> None:
    http = known(running, books.add_key())
    running.engine.refuse = EngineFailed("gone")
    batch_id = begin(http).json()["id"]
    until(lambda: len(running.engine.submitted) >= 1)
    running.engine.refuse = None
    assert ended(http, batch_id)["request_counts"]["completed"] == 1
    *failed, last = [(row["outcome"], row["charged_micro"]) for row in books.usage()]
    assert last[0] == "finished"
    assert last[1] > 0  # type: ignore[operator]
    assert set(failed) == {("error", 0)}
