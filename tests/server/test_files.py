"""/v1/files over real HTTP, with openai-python as a client where it has the call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.server.scripted import RunningServer, client_of, run_server, scripted_model
from tribody.core.api_settings import DEFAULT_API
from tribody.core.errors import BadConfig
from tribody.server import limits
from tribody.server.auth import KeyFile
from tribody.server.data_folder import DataFolder, Journal

LINE = b'{"custom_id": "a"}\n'
KEYS = ("sk-of-the-first-one", "sk-of-the-second-one")
NOW = 1_800_000_000.0


class Wall:
    """What time it is; a test moves it."""

    def __init__(self) -> None:
        self.seconds = NOW

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def running(tmp_path: Path, wall: Wall) -> Iterator[RunningServer]:
    server = run_server([scripted_model()], data_dir=tmp_path / "data", wall_seconds=wall)
    yield server
    server.stop()


@pytest.fixture
def http(running: RunningServer) -> Iterator[httpx2.Client]:
    with client_of(running) as client:
        yield client


def openai_of(running: RunningServer, key: str = "unused") -> openai.OpenAI:
    http = httpx2.Client(verify=False, timeout=10.0)
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0, http_client=http)


def put(http: httpx2.Client, content: bytes = LINE, **fields: Any) -> httpx2.Response:
    form = {"purpose": "batch"} | fields
    return http.post("/v1/files", data=form, files={"file": ("in.jsonl", content)})


def test_openai_client(running: RunningServer, wall: Wall) -> None:
    client = openai_of(running)
    file = client.files.create(file=("in.jsonl", LINE), purpose="batch")
    assert (file.object, file.purpose, file.status) == ("file", "batch", "processed")
    assert (file.filename, file.bytes, file.created_at) == ("in.jsonl", len(LINE), int(NOW))
    assert file.expires_at is None
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == LINE
    kept = client.files.create(
        file=LINE, purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert kept.expires_at == int(NOW) + 3600
    wall.seconds += 1
    last = client.files.create(file=LINE, purpose="batch")
    assert [f.id for f in client.files.list(purpose="batch")] == [last.id, file.id]
    assert [f.id for f in client.files.list(order="asc", limit=1)][-1] == last.id
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)


@pytest.mark.parametrize(
    "content",
    [b"", b"\r\n--boundary\r\n", bytes(range(256)) * 10_000],
    ids=["empty", "ends", "all"],
)
def test_any_bytes_come_back(http: httpx2.Client, content: bytes) -> None:
    file = put(http, content).json()
    assert file["bytes"] == len(content)
    answer = http.get(f"/files/{file['id']}/content")
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"


def test_pages_of_a_list(http: httpx2.Client) -> None:
    ids = {put(http).json()["id"] for _ in range(5)}
    first = http.get("/v1/files", params={"limit": 3}).json()
    assert (len(first["data"]), first["has_more"]) == (3, True)
    assert first["last_id"] == first["data"][-1]["id"]
    second = http.get("/v1/files", params={"limit": 3, "after": first["last_id"]}).json()
    assert (len(second["data"]), second["has_more"]) == (2, False)
    assert {f["id"] for f in first["data"] + second["data"]} == ids
    for params, status in (
        ({"limit": "0"}, 400),
        ({"limit": "10001"}, 400),
        ({"limit": "x"}, 400),
        ({"order": "up"}, 400),
        ({"purpose": "x"}, 400),
        ({"purpose": "null"}, 400),
        ({"after": "null"}, 404),
        ({"limit": ["1", "2"]}, 400),
        ({"after": "file-api-x"}, 404),
    ):
        answer = http.get("/v1/files", params=params)
        assert answer.status_code == status
        assert answer.json()["error"]["param"] == next(iter(params))
    assert http.get("/v1/files?x=1").headers["x-tribody-ignored"] == "x"


def test_an_expired_file_is_gone(http: httpx2.Client, wall: Wall, tmp_path: Path) -> None:
    more: dict[str, Any] = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = put(http, **more).json()
    wall.seconds += 3599
    assert http.get(f"/v1/files/{file['id']}").status_code == 200
    wall.seconds += 1
    assert http.get(f"/v1/files/{file['id']}").status_code == 404
    assert http.get("/v1/files").json()["data"] == []
    put(http)
    names = {path.name for path in (tmp_path / "data" / "files").iterdir()}
    assert not any(name.startswith(file["id"]) for name in names), "swept when one more comes"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": None}, "purpose"),
        ({"purpose": ["batch", "batch"]}, "purpose"),
        ({"expires_after[seconds]": "3600"}, "expires_after"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after"),
        ({"expires_after[anchor]": "created_at"}, "expires_after"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "²"}, "expires_after"),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "expires_after.seconds",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592001"},
            "expires_after.seconds",
        ),
    ],
)
def test_fields_that_are_refused(http: httpx2.Client, fields: dict[str, Any], param: str) -> None:
    form = {k: v for k, v in ({"purpose": "batch"} | fields).items() if v is not None}
    answer = http.post("/v1/files", data=form, files={"file": ("in.jsonl", LINE)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("", b""),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n"),
        ("multipart/form-data; boundary=" + "x" * 1000, b"--x\r\n"),
        (
            "multipart/form-data; boundary=x; charset=undefined",
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--x\r\n'
            b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
        ),
    ],
)
def test_bodies_that_are_no_form(http: httpx2.Client, kind: str, body: bytes) -> None:
    answer = http.post("/v1/files", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in ("file", "purpose")


def test_a_file_that_is_too_large(http: httpx2.Client, running: RunningServer) -> None:
    answer = put(http, b"x" * limits.MAX_BODY_BYTES)
    assert answer.status_code == 413
    two = [("file", ("a", LINE)), ("file", ("b", LINE))]
    assert http.post("/v1/files", data={"purpose": "batch"}, files=two).status_code == 400


@pytest.mark.parametrize("name", ["../../etc/passwd", "..%2f..%2fetc", "file-api-x", "%00"])
def test_ids_are_looked_up_and_nothing_else(http: httpx2.Client, name: str) -> None:
    for path in (f"/v1/files/{name}", f"/v1/files/{name}/content"):
        assert http.get(path).status_code == 404


def test_a_key_sees_its_own_files(tmp_path: Path) -> None:
    digests = {hashlib.sha256(key.encode()).digest(): DEFAULT_API for key in KEYS}
    server = run_server([scripted_model()], keys=KeyFile(digests), data_dir=tmp_path)
    try:
        mine, other = (openai_of(server, key) for key in KEYS)
        file = mine.files.create(file=LINE, purpose="batch")
        assert [f.id for f in mine.files.list()] == [file.id]
        assert list(other.files.list()) == []
        for call in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                call(file.id)
        with pytest.raises(openai.NotFoundError):
            other.batches.create(
                input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
            )
        assert mine.files.content(file.id).read() == LINE
    finally:
        server.stop()


def test_too_many_files(http: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_FILES", 1)
    assert put(http).status_code == 200
    assert "delete some" in put(http).json()["error"]["message"]
    monkeypatch.setattr(limits, "MAX_FILES", 9)
    monkeypatch.setattr(limits, "MAX_FILES_BYTES", 2 * len(LINE) - 1)
    assert "delete some" in put(http).json()["error"]["message"]


def test_files_outlive_the_server(tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        server = run_server([scripted_model()], data_dir=tmp_path)
        client = openai_of(server)
        ids.append(client.files.create(file=LINE, purpose="batch").id)
        assert {file.id for file in client.files.list()} == set(ids)
        assert all(client.files.content(i).read() == LINE for i in ids)
        server.stop()


def test_a_server_without_a_folder_says_so() -> None:
    server = run_server([scripted_model()])
    try:
        with client_of(server) as http:
            for path in ("/v1/files", "/v1/batches"):
                answer = http.get(path)
                assert answer.status_code == 404
                assert "--data-dir" in answer.json()["error"]["message"]
    finally:
        server.stop()


# --- the folder ------------------------------------------------------------------------------


def test_one_server_has_a_folder(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with pytest.raises(BadConfig, match="another server's"):
        DataFolder(tmp_path)
    folder.close()
    DataFolder(tmp_path).close()
    assert (tmp_path / "files").stat().st_mode & 0o077 == 0


def test_what_is_not_whole_is_not_there(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)

    def half() -> None:
        with folder.writing("files", "a") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list((tmp_path / "files").iterdir()) == []
    (tmp_path / "files" / "b.part").write_bytes(b"a server was killed here")
    folder.close()
    DataFolder(tmp_path).close()
    assert list((tmp_path / "files").iterdir()) == []


def test_a_journal_loses_only_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append(b"one")
    journal.close()
    with open(path, "ab") as file:
        file.write(b"tw")
    journal = Journal(path)
    journal.append(b"three")
    assert list(journal.lines()) == [b"one\n", b"three\n"]
    journal.close()
