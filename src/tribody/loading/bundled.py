"""Models that ship inside tribody: found beside the code, never fetched, kept in no cache.

They are ordinary checkpoints in ordinary folders, in a source tree as in an installed wheel.
SHA256SUMS, in the format of `sha256sum`, lists every file.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from tribody.core.errors import BadModel
from tribody.loading.download import sha256_of

BUNDLED = (
    "mini-r1",  # a reasoner of DeepSeek-V3's architecture, 8 million parameters, BF16; the default
    "mini-r1-fp8",  # the same weights in DeepSeek's FP8 tiles
)
SUMS = "SHA256SUMS"


def root() -> Path:
    """The folder of all that is bundled.  tribody has native code, so it is never inside a zip."""
    return Path(str(resources.files("tribody"))) / "bundled"


def locate(name: str, *, verify: bool = False) -> Path:
    """The folder of a bundled model; `verify` compares the SHA-256 of its files.

    Raises: BadModel when the installation lacks the model or its files were changed.
    """
    folder = root() / name
    if not (folder / "config.json").is_file():
        raise BadModel(
            f"{name} ships with tribody, but {folder} does not hold it; install tribody again"
        )
    if verify:
        _verify(name)
    return folder


def _verify(name: str) -> None:
    path = root() / SUMS
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise BadModel(f"{path}: cannot be read: {error.strerror}") from error
    stated = {file: digest for digest, _, file in (line.partition("  ") for line in lines)}
    for file in sorted((root() / name).iterdir()):
        found = sha256_of(file)
        if stated.pop(f"{name}/{file.name}", None) != found:
            raise BadModel(
                f"{file}: its SHA-256 {found} is not the one in {path}; install tribody again"
            )
    missing = [file for file in stated if file.startswith(f"{name}/")]
    if missing:
        raise BadModel(f"{root() / missing[0]} is missing; install tribody again")
