"""/v1/batches over real HTTP: openai-python as the client, and a server that is killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import openai
import pytest
from openai.types import Batch

from tests.server.scripted import Held, RunningServer, run_server, scripted_model
from tests.server.test_files import Wall, openai_of
from tribody.core.api_settings import DEFAULT_API
from tribody.core.errors import Overloaded
from tribody.core.request import Request
from tribody.server import batch_lines, limits
from tribody.server.auth import KeyFile
from tribody.server.batch_runner import LINES_AT_ONCE

CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"
VECTOR: Final = "/v1/embeddings"
HELLO = "Hello, world. 你好!"


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def running(tmp_path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    monkeypatch.setattr(batch_lines, "RETRY_SECONDS", 0.02)
    server = run_server([scripted_model()], data_dir=tmp_path / "data", wall_seconds=wall)
    yield server
    server.stop()


def line(name: str, url: str = TEXT, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "scripted", "temperature": 0}
    if url == CHAT:
        body["messages"] = [{"role": "user", "content": "x"}]
    elif url == TEXT:
        body["prompt"] = name
    else:
        body["input"] = "x"
    return {"custom_id": name, "method": "POST", "url": url, "body": body | fields}


def begin(client: openai.OpenAI, lines: list[Any], url: Any = TEXT, **more: Any) -> Batch:
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    file = client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=url, completion_window="24h", **more
    )


def ended(client: openai.OpenAI, batch: Batch, seconds: float = 30.0) -> Batch:
    limit = time.monotonic() + seconds
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < limit, batch
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def answers(client: openai.OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """By custom_id; no line may be answered twice."""
    if file_id is None:
        return {}
    found = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    names = Counter(one["custom_id"] for one in found)
    assert max(names.values()) == 1, names
    return {one["custom_id"]: one for one in found}


def test_upload_create_poll_fetch(running: RunningServer, wall: Wall) -> None:
    client = openai_of(running)
    batch = begin(client, [line(f"r{i}") for i in range(40)], metadata={"job": "nightly"})
    assert re.fullmatch("batch_[0-9a-f]{32}", batch.id)
    assert batch.metadata == {"job": "nightly"}
    assert batch.expires_at == batch.created_at + 24 * 3600
    batch = ended(client, batch)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (40, 40, 0)
    assert batch.error_file_id is None
    assert batch.output_file_id is not None
    found = answers(client, batch.output_file_id)
    assert set(found) == {f"r{i}" for i in range(40)}
    for one in found.values():
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        assert one["response"]["body"]["choices"][0]["text"] == HELLO
    file = client.files.retrieve(batch.output_file_id)
    assert file.purpose == "batch_output"
    assert file.expires_at == file.created_at + 30 * 24 * 3600
    assert [b.id for b in client.batches.list()] == [batch.id]
    assert all(request.priority == "background" for request in running.engine.submitted)


@pytest.mark.parametrize("url", [CHAT, TEXT, VECTOR, "/v1/responses"])
def test_every_endpoint(running: RunningServer, url: str) -> None:
    client = openai_of(running)
    batch = ended(client, begin(client, [line("a", url)], url))
    assert batch.status == "completed"
    body = answers(client, batch.output_file_id)["a"]["response"]["body"]
    kinds = {CHAT: "chat.completion", TEXT: "text_completion", VECTOR: "list"}
    assert body["object"] == kinds.get(url, "response")
    assert body["model"] == "scripted"
    (request,) = running.engine.submitted
    assert request.priority == "background"


def test_errors_have_a_file_of_their_own(running: RunningServer) -> None:
    client = openai_of(running)
    lines = [line("good"), line("bad", temperature=9), line("unknown", model="gpt-9")]
    batch = ended(client, begin(client, lines))
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    assert set(answers(client, batch.output_file_id)) == {"good"}
    errors = answers(client, batch.error_file_id)
    assert errors["bad"]["response"]["status_code"] == 400
    assert errors["bad"]["response"]["body"]["error"]["param"] == "temperature"
    assert errors["unknown"]["response"]["status_code"] == 404


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([], "empty_file", None),
        (["{"], "invalid_json_line", 1),
        ([line("a"), "[]"], "invalid_json_line", 2),
        ([line("a") | {"method": "GET"}], "invalid_json_line", 1),
        ([line("a") | {"body": 1}], "invalid_json_line", 1),
        ([line("a") | {"url": "/v1/models"}], "invalid_url", 1),
        ([line("a", CHAT)], "invalid_url", 1),
        ([line("a"), "", line("a")], "duplicate_custom_id", 2),
        ([line("a", stream=True)], "invalid_request", 1),
        ([line("")], "invalid_custom_id", 1),
        ([line("x" * (limits.MAX_CUSTOM_ID + 1))], "invalid_custom_id", 1),
        (["[" * 100_000], "invalid_json_line", 1),
    ],
)
def test_an_input_that_is_none(
    running: RunningServer, lines: list[Any], code: str, number: int | None
) -> None:
    client = openai_of(running)
    batch = ended(client, begin(client, lines))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(e.code, e.line) for e in batch.errors.data] == [(code, number)]
    assert running.engine.submitted == []


def test_the_most_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BATCH_LINES", 3)
    path = tmp_path / "in"
    for count, problems in ((3, 0), (4, 1)):
        path.write_text("".join(json.dumps(line(f"r{i}")) + "\n" for i in range(count)))
        assert len(batch_lines.check_lines(path, TEXT)[1]) == problems


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_file_id": "file-api-" + "0" * 32}, "input_file_id"),
        ({"input_file_id": "../../x"}, "input_file_id"),
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 3599}},
            "output_expires_after.seconds",
        ),
    ],
)
def test_batches_that_are_refused(
    running: RunningServer, fields: dict[str, Any], param: str
) -> None:
    client = openai_of(running)
    file = client.files.create(file=b"{}", purpose="batch")
    body: dict[str, Any] = {"input_file_id": file.id, "endpoint": TEXT, "completion_window": "24h"}
    with pytest.raises(openai.APIStatusError) as caught:
        client.batches.create(**(body | fields))
    assert caught.value.status_code in (400, 404)
    assert caught.value.param == param


def test_a_file_of_another_purpose(running: RunningServer) -> None:
    client = openai_of(running)
    file = client.files.create(file=b"{}", purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.batches.create(input_file_id=file.id, endpoint=TEXT, completion_window="24h")


def test_cancel(running: RunningServer) -> None:
    """What is under way is aborted, what is answered stays; every line stands in one file."""
    client = openai_of(running)
    held = running.engine.hold = Held(after=3)
    batch = begin(client, [line(f"r{i}") for i in range(30)])
    assert held.reached.wait(10)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(client, batch)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    assert running.engine.abort_seen.wait(5)
    output, errors = (answers(client, i) for i in (batch.output_file_id, batch.error_file_id))
    assert set(output) | set(errors) == {f"r{i}" for i in range(30)}
    assert not set(output) & set(errors)
    assert {one["error"]["code"] for one in errors.values()} == {"batch_cancelled"}
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.batches.cancel(batch.id)
    running.engine.hold = None
    again = ended(client, begin(client, [line(f"r{i}") for i in range(2 * LINES_AT_ONCE)]))
    assert again.status == "completed", "the places of aborted lines are free again"


def test_a_batch_whose_time_is_over(tmp_path: Path) -> None:
    """It was not finished when the server ended, and is too late when the next one begins."""
    wall = Wall()
    server = run_server([scripted_model()], data_dir=tmp_path, wall_seconds=wall)
    held = server.engine.hold = Held(after=0)
    batch = begin(openai_of(server), [line("a"), line("b")])
    assert held.reached.wait(10)
    server.stop()
    wall.seconds += 24 * 3600
    server = run_server([scripted_model()], data_dir=tmp_path, wall_seconds=wall)
    try:
        client = openai_of(server)
        batch = ended(client, client.batches.retrieve(batch.id))
        assert batch.status == "expired"
        errors = answers(client, batch.error_file_id)
        assert {one["error"]["code"] for one in errors.values()} == {"batch_expired"}
        assert set(errors) == {"a", "b"}
    finally:
        server.stop()


def test_lines_wait_for_room(running: RunningServer) -> None:
    client = openai_of(running)
    running.engine.refuse = Overloaded("full")
    batch = begin(client, [line("a")])
    while len(running.engine.submitted) < 3:
        time.sleep(0.01)
    running.engine.refuse = None
    assert ended(client, batch).status == "completed"


def test_a_line_that_fails_is_an_error(running: RunningServer) -> None:
    client = openai_of(running)
    running.engine.fail_after = 0
    batch = ended(client, begin(client, [line("a")]))
    answer = answers(client, batch.error_file_id)["a"]["response"]
    assert answer["status_code"] == 500
    assert "secret" not in json.dumps(answer)


def test_few_lines_at_once_and_the_input_may_go(running: RunningServer) -> None:
    client = openai_of(running)
    running.engine.hold = Held(after=0)
    batch = begin(client, [line(f"r{i}") for i in range(50)])
    while len(running.engine.submitted) < LINES_AT_ONCE:
        time.sleep(0.01)
    client.files.delete(batch.input_file_id)
    time.sleep(0.2)
    assert len(running.engine.submitted) == LINES_AT_ONCE
    running.engine.hold.release()
    batch = ended(client, batch)
    assert len(answers(client, batch.output_file_id)) == 50


def test_a_key_sees_its_own_batches_and_a_lost_key_stops_them(tmp_path: Path) -> None:
    keys = ("sk-of-the-first-one", "sk-of-the-second-one")
    digests = {hashlib.sha256(key.encode()).digest(): DEFAULT_API for key in keys}
    server = run_server([scripted_model()], keys=KeyFile(digests), data_dir=tmp_path)
    mine, other = (openai_of(server, key) for key in keys)
    server.engine.hold = Held(after=0)
    batch = begin(mine, [line("a")])
    assert [b.id for b in mine.batches.list()] == [batch.id]
    assert list(other.batches.list()) == []
    for call in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call(batch.id)
    server.stop()
    del digests[hashlib.sha256(keys[0].encode()).digest()]
    server = run_server([scripted_model()], keys=KeyFile(digests), data_dir=tmp_path)
    time.sleep(0.2)
    assert server.engine.submitted == []
    server.stop()
    digests[hashlib.sha256(keys[0].encode()).digest()] = DEFAULT_API
    server = run_server([scripted_model()], keys=KeyFile(digests), data_dir=tmp_path)
    client = openai_of(server, keys[0])
    assert ended(client, batch).status == "completed"
    server.stop()


def test_lines_have_the_salt_of_their_key(running: RunningServer) -> None:
    """A batch finds the cached prefixes of its key's other requests."""
    client = openai_of(running)
    client.completions.create(model="scripted", prompt="a")
    ended(client, begin(client, [line("a")]))
    salts: set[str] = {r.cache_salt for r in running.engine.submitted if isinstance(r, Request)}
    assert len(salts) == 1


# --- a server that is killed -----------------------------------------------------------------


def _started(folder: Path) -> tuple[subprocess.Popen[str], openai.OpenAI]:
    command = [sys.executable, "-m", "tribody.cli.main", "serve", "scripted:rate=200"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--data-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if "TRIBODY" not in name},
    )
    assert process.stdout is not None
    for said in process.stdout:
        found = re.search(r"ready at (http://\S+)/v1", said)
        if found:
            break
    http = httpx2.Client(verify=False, timeout=30.0)
    client = openai.OpenAI(
        base_url=f"{found[1]}/v1",  # type: ignore[index]
        api_key="unused",
        max_retries=0,
        http_client=http,
    )
    return process, client


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_every_line_is_answered_once_whatever_is_killed(tmp_path: Path, kills: int) -> None:
    num_lines = 150 * kills
    process, client = _started(tmp_path)
    lines = [line(f"r{i}", prompt=f"[[say: number {i}]]", max_tokens=64) for i in range(num_lines)]
    batch = begin(client, lines)
    seen = 0
    for _ in range(kills):
        while True:
            batch = client.batches.retrieve(batch.id)
            assert batch.request_counts is not None
            if batch.status == "completed" or batch.request_counts.completed >= seen + 40:
                break
            time.sleep(0.02)
        assert batch.status == "in_progress", "killed in its middle"
        seen = batch.request_counts.completed
        process.send_signal(signal.SIGKILL)
        process.wait()
        process, client = _started(tmp_path)
    batch = ended(client, batch, 120)
    assert batch.status == "completed"
    found = answers(client, batch.output_file_id)
    assert set(found) == {f"r{i}" for i in range(num_lines)}
    for i in range(num_lines):
        text = found[f"r{i}"]["response"]["body"]["choices"][0]["text"]
        assert text == f"number {i}"
    assert batch.request_counts is not None
    assert batch.request_counts.completed == num_lines
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert {path.suffix for path in (tmp_path / "batches").iterdir()} == {".json"}
