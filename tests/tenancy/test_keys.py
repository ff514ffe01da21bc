"""Keys, digests, and the secret that they are made with."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import threading
from pathlib import Path

import pytest

from tribody.core.errors import BadConfig
from tribody.tenancy import keys

SECRET = bytes(range(32))


def test_a_key_has_256_bits() -> None:
    made = [keys.new_key() for _ in range(500)]
    assert len(set(made)) == 500
    assert all(re.fullmatch(r"sk-[0-9A-Za-z]{43}", key) for key in made)
    assert set("".join(key[3:] for key in made)) == set(keys.ALPHABET)
    assert len(set(keys.ALPHABET)) ** keys.KEY_CHARACTERS > 2**256
    assert math.log2(62) * 42 < 256


def test_four_characters_of_a_key_are_told() -> None:
    assert keys.shown("sk-abcdefghij") == "sk-…ghij"


def test_digests_are_hmac_sha256_each_use_with_its_own_label() -> None:
    def expected(message: bytes) -> bytes:
        return hmac.new(SECRET, message, hashlib.sha256).digest()

    assert keys.digest(SECRET, b"sk-x") == expected(b"api key\0sk-x")
    assert keys.kv_salt(SECRET, "acme") == expected(b"kv salt\0acme").hex()
    assert keys.fingerprint(SECRET) == expected(b"fingerprint\0").hex()


def test_a_digest_needs_the_secret() -> None:
    assert keys.digest(SECRET, b"sk-x") != keys.digest(bytes(32), b"sk-x")
    assert keys.kv_salt(SECRET, "acme") != keys.kv_salt(bytes(32), "acme")
    assert keys.kv_salt(SECRET, "acme") != keys.kv_salt(SECRET, "acmf")


# --- the file --------------------------------------------------------------------------------


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "deeper" / "secret"
    secret = keys.read_secret(path)
    assert len(secret) == 32
    assert keys.read_secret(path) == secret == path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]
    assert keys.read_secret(tmp_path / "other") != secret


def test_whoever_makes_the_secret_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    read: list[bytes] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        read.append(keys.read_secret(path))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 8
    assert set(read) == {path.read_bytes()}
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x" * size)
    path.chmod(0o600)
    with pytest.raises(BadConfig, match="does not have 32 bytes; restore it"):
        keys.read_secret(path)
    assert path.read_bytes() == b"x" * size


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o620, 0o601])
def test_a_secret_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x" * 32)
    path.chmod(mode)
    with pytest.raises(BadConfig, match=f"mode {mode:o}.*chmod 600"):
        keys.read_secret(path)


def test_a_secret_may_be_read_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o400)
    assert keys.read_secret(path) == SECRET


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot be read or made: Is a directory"):
        keys.read_secret(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfig, match="cannot be read or made: File exists"):
        keys.read_secret(tmp_path / "file" / "secret")


def test_the_secret_is_on_the_disk_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file first, then - when it has its name - its folder."""
    path = tmp_path / "secret"
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        synced.append(("folder" if name == str(tmp_path) else "file", path.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    keys.read_secret(path)
    assert synced == [("file", False), ("folder", True)]


def test_a_disk_that_fails_leaves_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(BadConfig, match="cannot be read or made: Input/output error"):
        keys.read_secret(tmp_path / "secret")
    assert list(tmp_path.iterdir()) == []
