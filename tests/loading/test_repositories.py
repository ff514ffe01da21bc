"""Fetching from Hugging Face: the real client against a mirror of one repository on localhost.

The mirror stands where HF_ENDPOINT points, as users' mirrors do.  Each test runs in a process of
its own, because the client reads its environment when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.loading.safetensors_maker import header_of, pack
from tribody.loading.checkpoint import open_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = pack(*header_of({"w": ("F32", [2], bytes(8))}))
FILES = {
    "config.json": b'{"model_type": "llama", "auto_map": {"AutoModel": "modeling_x.X"}}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "modeling_x.py": b"raise SystemExit",
    "pytorch_model.bin": b"\x80\x04.",
    "original/params.json": b"{}",
}


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Mirror(BaseHTTPRequestHandler):
    """The parts of the site's protocol that downloading needs."""

    served: ClassVar[dict[str, bytes]]
    asked: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path.startswith("/api/models/org/tiny/tree/"):
            content = json.dumps([tree_entry(name) for name in FILES]).encode()
        elif path.startswith("/api/models/org/tiny"):
            siblings = [sibling(name) for name in FILES]
            content = json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            content = self.served[path.partition(f"{COMMIT}/")[2]]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        name = path.rpartition("/")[2]
        self.send_header("ETag", f'"{etag(name) if name in FILES else "x"}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def etag(name: str) -> str:
    content = FILES[name]
    is_lfs = name.endswith((".safetensors", ".bin"))
    return hashlib.sha256(content).hexdigest() if is_lfs else blob_id(content)


def sibling(name: str) -> dict[str, object]:
    entry: dict[str, object] = {
        "rfilename": name, "size": len(FILES[name]), "blobId": blob_id(FILES[name])
    }  # fmt: skip
    if name.endswith(".safetensors"):
        entry["lfs"] = {"sha256": etag(name), "size": len(FILES[name]), "pointerSize": 1}
    return entry


def tree_entry(name: str) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file", "path": name, "size": len(FILES[name]), "oid": blob_id(FILES[name])
    }  # fmt: skip
    if name.endswith(".safetensors"):
        entry["lfs"] = {"oid": etag(name), "size": len(FILES[name]), "pointerSize": 1}
    return entry


@pytest.fixture
def mirror() -> Iterator[tuple[str, type[Mirror]]]:
    """The mirror's address and its handler class, whose `served` files a test may spoil."""
    handler = type("OneMirror", (Mirror,), {"served": dict(FILES), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def fetch(name: str, cache: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from pathlib import Path; from tribody.loading.hub import resolve\n"
        f"print(resolve({name!r}, cache_dir=Path({str(cache)!r})))"
    )
    environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(cache / "hf-home")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environ
    )


def test_a_repository_is_fetched_from_the_mirror(
    mirror: tuple[str, type[Mirror]], tmp_path: Path
) -> None:
    """Wanted files only; auto_map is dropped; afterwards no network is needed."""
    address, handler = mirror
    result = fetch("hf:org/tiny", tmp_path, HF_ENDPOINT=address)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "hf" / "org" / "tiny"
    assert Path(result.stdout.strip()) == folder
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tribody-manifest.json"
    ]  # fmt: skip
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "llama"}
    checkpoint = open_checkpoint(folder)
    assert checkpoint.name == "tiny"
    checkpoint.close()
    handler.asked.clear()
    again = fetch("hf:org/tiny", tmp_path, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    assert again.stdout == result.stdout
    assert handler.asked == []


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_with_another_hash_is_refused(
    name: str, mirror: tuple[str, type[Mirror]], tmp_path: Path
) -> None:
    address, handler = mirror
    handler.served[name] = bytes(len(FILES[name]))
    result = fetch("hf:org/tiny", tmp_path, HF_ENDPOINT=address)
    assert "DownloadFailed" in result.stderr
    assert name in result.stderr.splitlines()[-1]
    assert not (tmp_path / "hf").exists()
    handler.served[name] = FILES[name]
    assert fetch("hf:org/tiny", tmp_path, HF_ENDPOINT=address).returncode == 0


def test_failures_are_explained(mirror: tuple[str, type[Mirror]], tmp_path: Path) -> None:
    address, _ = mirror
    for name, environ in (
        ("hf:org/absent", {"HF_ENDPOINT": address}),
        ("hf:org/tiny", {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "1"}),
    ):
        result = fetch(name, tmp_path, **environ)
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith(f"tribody.core.errors.DownloadFailed: {name}: could not be"), last
        assert "HF_ENDPOINT" in last
