"""The fixed text: what is taken from a wheel, what is refused, what an error says."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from tribody.core.errors import BadConfig, DownloadFailed
from tribody.loading.download import FolderWatcher, Slot, sha256_of
from tribody.quality import prose

SENTENCE = "This is one of several long sentences that a reader would call prose; it goes on. "
PARAGRAPH = (3 * SENTENCE).strip()


def wheel(path: Path, *, again: str = "") -> Path:
    source = f'''"""Title.

{PARAGRAPH}

    {PARAGRAPH}

Use ``code`` here. {PARAGRAPH}

Too short to be prose.
"""
def f():
    """{PARAGRAPH}"""
class C:
    """{again or PARAGRAPH}"""
'''
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b/one.py", source)
        archive.writestr("a/broken.py", "def (")
        archive.writestr("a/tests/two.py", source)
        archive.writestr("a/data.txt", PARAGRAPH)
    return path


def test_prose_is_the_running_text_of_docstrings(tmp_path: Path) -> None:
    found = list(prose.prose_in(wheel(tmp_path / "x.whl", again=PARAGRAPH.replace("one", "two"))))
    assert found == [PARAGRAPH, PARAGRAPH, PARAGRAPH.replace("one", "two")]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One package, fetched by copying; returns the requirements that were fetched."""
    original = wheel(tmp_path / "x.whl")
    fetched: list[str] = []

    def download(slot: Slot, _watcher: FolderWatcher) -> Path:
        fetched.append(slot.source)
        slot.partial.mkdir(parents=True, exist_ok=True)
        target = slot.partial / "x.whl"
        target.write_bytes(original.read_bytes())
        return target

    monkeypatch.setattr(prose, "download_wheel", download)
    package = prose.Package("x==1", "MIT", sha256_of(original))
    monkeypatch.setattr(prose, "PACKAGES", (package,))
    monkeypatch.setattr(prose, "PROSE_SHA256", hashlib.sha256(PARAGRAPH.encode()).hexdigest())
    return fetched


def test_prose_is_fetched_once(tmp_path: Path, packages: list[str]) -> None:
    first = prose.package_prose(tmp_path / "cache")
    assert first.text == PARAGRAPH
    assert prose.package_prose(tmp_path / "cache") == first
    assert packages == ["pypi:x==1"]


def test_another_wheel_is_refused(
    tmp_path: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prose, "PACKAGES", (prose.Package("x==1", "MIT", "0" * 64),))
    with pytest.raises(DownloadFailed, match=r"the wheel has SHA-256 .*--text FILE"):
        prose.package_prose(tmp_path / "cache")


def test_another_text_is_refused(
    tmp_path: Path, packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prose, "PROSE_SHA256", "0" * 64)
    with pytest.raises(DownloadFailed, match=r"remove .*--text FILE"):
        prose.package_prose(tmp_path / "cache")


def test_no_network_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(slot: Slot, _watcher: FolderWatcher) -> Path:
        raise DownloadFailed(f"{slot.source}: pip could not download it")

    monkeypatch.setattr(prose, "download_wheel", download)
    with pytest.raises(DownloadFailed, match=r"networkx.*--text FILE"):
        prose.package_prose(tmp_path / "cache")


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Grüße", encoding="utf-8")
    assert prose.text_file(path).text == "Grüße"
    path.write_bytes(b"ab\xff")
    with pytest.raises(BadConfig, match="byte 2"):
        prose.text_file(path)
    with pytest.raises(BadConfig, match="cannot be read"):
        prose.text_file(tmp_path / "none")
