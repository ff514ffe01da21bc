"""Models from Hugging Face (`hf:org/name[@revision]`) and ModelScope (`modelscope:org/name`).

Both are fetched by the sites' own clients, which honour their own environment (HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN, MODELSCOPE_…) and resume by themselves.  Files are downloaded plainly,
not as links into a shared cache; Python files and pickles are never downloaded.  A config.json
that asks for Python files (`auto_map`) is kept without that key, because the files it names are
not there and the engine has its own implementation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from pathlib import Path

from tribody.core.errors import BadConfig, DownloadFailed
from tribody.loading.download import FolderWatcher, Slot, check_free_space, sha256_of

_LOG = logging.getLogger(__name__)

_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model")
_REFERENCE = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9._-]{0,95})/([A-Za-z0-9_][A-Za-z0-9._-]{0,95})(?:@([\w./-]{1,96}))?"
)


def locate(kind: str, reference: str, cache_dir: Path) -> Slot:
    """The place of `org/name[@revision]` in the cache.

    Raises: BadConfig for a malformed reference.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None or ".." in reference:
        raise BadConfig(
            f"{kind}:{reference}: is not a repository; write {kind}:org/name or "
            f"{kind}:org/name@revision"
        )
    leaf = match[2] if match[3] is None else f"{match[2]}@{match[3].replace('/', '--')}"
    return Slot(cache_dir, f"{kind}:{reference}", cache_dir / kind / match[1] / leaf)


def _split(slot: Slot) -> tuple[str, str | None]:
    repository, _, revision = slot.source.partition(":")[2].partition("@")
    return repository, revision or None


def _is_wanted(name: str) -> bool:
    """Top-level files only: subfolders hold other formats, figures and the authors' scripts."""
    return "/" not in name and any(Path(name).match(pattern) for pattern in _PATTERNS)


def fetch_hugging_face(slot: Slot, watcher: FolderWatcher) -> None:
    """Fill `slot.files` from Hugging Face, at one commit, and compare every file's hash.

    Raises: DownloadFailed with the client's message, or when a hash differs.
    """
    # Imported here: the client takes half a second that a start from the cache need not spend.
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, revision = _split(slot)
    slot.files.mkdir(parents=True, exist_ok=True)
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        wanted = [file for file in info.siblings or [] if _is_wanted(file.rfilename)]
        if not any(file.rfilename.endswith(".safetensors") for file in wanted):
            raise DownloadFailed(f"{slot.source}: the repository has no .safetensors file")
        watcher.total_bytes = sum(file.size or 0 for file in wanted)
        check_free_space(slot.files, watcher.total_bytes)
        snapshot_download(
            repository,
            revision=info.sha,
            local_dir=slot.files,
            allow_patterns=[file.rfilename for file in wanted],
        )
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise DownloadFailed(
            f"{slot.source}: could not be downloaded: {_first_line(error)}; check the name, the "
            "network, HF_ENDPOINT (mirrors) and HF_TOKEN (gated models)"
        ) from error
    for file in wanted:
        expected = file.lfs.sha256 if file.lfs is not None else file.blob_id
        path = slot.files / file.rfilename
        found = sha256_of(path) if file.lfs is not None else _git_blob_id(path)
        if expected is not None and found != expected:
            path.unlink()
            raise DownloadFailed(
                f"{slot.source}: {file.rfilename} has hash {found}, not {expected}; it was "
                "removed: try again"
            )
    shutil.rmtree(slot.files / ".cache", ignore_errors=True)  # the client's resume records
    _drop_auto_map(slot.files)


def fetch_modelscope(slot: Slot, watcher: FolderWatcher) -> None:
    """Fill `slot.files` from ModelScope, whose client compares the hashes itself.

    Raises: BadConfig when the optional client is not installed; DownloadFailed.
    """
    try:
        from modelscope import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            snapshot_download,
        )
        from modelscope_hub.errors import (  # type: ignore[import-not-found,unused-ignore]
            HubError,
        )
    except ImportError as error:
        raise BadConfig(
            f"{slot.source}: needs the ModelScope client; install it with: "
            "pip install 'tribody[modelscope]'"
        ) from error
    repository, revision = _split(slot)
    slot.files.mkdir(parents=True, exist_ok=True)
    try:
        snapshot_download(
            repository,
            revision=revision,
            local_dir=str(slot.files),
            allow_patterns=list(_PATTERNS),
        )
    except (HubError, OSError, ValueError) as error:
        raise DownloadFailed(
            f"{slot.source}: could not be downloaded: {_first_line(error)}; check the name and "
            "the network"
        ) from error
    for path in sorted(slot.files.iterdir()):
        if not (path.is_file() and _is_wanted(path.name)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _drop_auto_map(slot.files)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _git_blob_id(path: Path) -> str:
    """The id that git gives the file; Hugging Face states it for files outside LFS."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _drop_auto_map(folder: Path) -> None:
    """Remove `auto_map` from the JSON files that carry it and say so in the log."""
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # the loader reports what is wrong with the file
        if isinstance(config, dict) and config.pop("auto_map", None) is not None:
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
            _LOG.info("event=auto_map_dropped path=%s", path)
