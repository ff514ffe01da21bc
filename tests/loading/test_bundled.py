"""Models that ship with tribody: found without network or cache, checked, named when absent."""

from __future__ import annotations

import hashlib
import socket
import subprocess
from pathlib import Path

import pytest

from tests.engine.model_folder import write_model_folder
from tribody.cli import pull
from tribody.core.errors import BadModel
from tribody.loading import bundled
from tribody.loading.checkpoint import open_checkpoint
from tribody.loading.hub import resolve


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with one tiny model in mini-r1's place."""
    root = tmp_path / "bundled"
    folder = write_model_folder(root / "mini-r1", "v3-q-lora")
    files = sorted(folder.iterdir())
    sums = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  mini-r1/{f.name}\n" for f in files]
    (root / bundled.SUMS).write_text("0" * 64 + "  held_out.jsonl.gz\n" + "".join(sums))
    monkeypatch.setattr(bundled, "root", lambda: root)
    return root


def test_found_without_network_processes_or_cache(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(subprocess, "Popen", forbidden)
    cache = tmp_path / "cache"
    assert resolve("mini-r1", cache_dir=cache, verify=True) == bundle / "mini-r1"
    assert not cache.exists()


def test_a_folder_of_that_name_does_not_hide_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mini-r1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("mini-r1", cache_dir=tmp_path) == bundle / "mini-r1"
    assert resolve("./mini-r1", cache_dir=tmp_path) == tmp_path / "mini-r1"


def test_pull_says_that_it_ships(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pull.run(["mini-r1"], verify=True)
    said = capsys.readouterr()
    assert said.out == f"{bundle / 'mini-r1'}\n"
    assert "mini-r1 ships with tribody" in said.err


@pytest.mark.parametrize("name", ["mini-r1", "mini-r1-fp8"])
def test_an_installation_without_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(bundled, "root", lambda: tmp_path)
    with pytest.raises(BadModel, match=f"{name} ships with tribody, but .* install tribody again"):
        resolve(name, cache_dir=tmp_path)


def test_damage_is_found_where_asked(bundle: Path, tmp_path: Path) -> None:
    folder = bundle / "mini-r1"
    extra = folder / "extra.json"
    extra.write_text("{}")
    with pytest.raises(BadModel, match=r"extra\.json: its SHA-256"):
        resolve("mini-r1", cache_dir=tmp_path, verify=True)
    extra.unlink()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert resolve("mini-r1", cache_dir=tmp_path) == folder
    with pytest.raises(BadModel, match=r"model\.safetensors: its SHA-256"):
        resolve("mini-r1", cache_dir=tmp_path, verify=True)
    weights.unlink()
    with pytest.raises(BadModel, match=r"model\.safetensors is missing"):
        resolve("mini-r1", cache_dir=tmp_path, verify=True)
    (bundle / bundled.SUMS).unlink()
    with pytest.raises(BadModel, match="SHA256SUMS: cannot be read"):
        resolve("mini-r1", cache_dir=tmp_path, verify=True)


@pytest.mark.parametrize("name", bundled.BUNDLED)
def test_the_bundled_models_are_whole(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(resolve(name, cache_dir=tmp_path, verify=True))
    assert checkpoint.name == name
    assert checkpoint.config["model_type"] == "deepseek_v3"
    checkpoint.close()
