"""Hold the documentation to what exists.

* every `make TARGET` and `tribody COMMAND` in a shell block of README and docs exists, with the
  long options that it shows;
* docs/cli.md is what `tribody … --help` prints (`--write` renews it);
* every relative link of every Markdown file leads to a file.

Runs with the interpreter of an environment that has tribody installed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLI_PAGE = ROOT / "docs" / "cli.md"
TRIBODY = Path(sys.executable).parent / "tribody"

SHELL_BLOCK = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMAND_ROW = re.compile(r"^  ([a-z-]+)  ", re.MULTILINE)
TARGET = re.compile(r"^([a-z][a-z0-9-]*):", re.MULTILINE)


def help_text(*words: str) -> str:
    """What `tribody WORDS --help` prints, plain and at a fixed width so that it compares."""
    environment = os.environ | {"TYPER_USE_RICH": "0", "NO_COLOR": "1", "COLUMNS": "100"}
    completed = subprocess.run(
        [str(TRIBODY), *words, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    return "\n".join(line.rstrip() for line in completed.stdout.strip().splitlines())


def help_pages(*words: str) -> Iterator[tuple[str, str]]:
    """("serve", what `tribody serve --help` prints) of this command and all below it."""
    page = help_text(*words)
    yield " ".join(words), page
    _before, _heading, listed = page.partition("Commands:\n")
    for name in COMMAND_ROW.findall(listed):
        yield from help_pages(*words, name)


def cli_page(pages: dict[str, str]) -> str:
    renewed = "Printed by `--help`; renewed by `scripts/check_docs.py --write`."
    parts = [f"# The command line\n\n{renewed}\n"]
    for name, page in pages.items():
        parts.append(f"## {f'tribody {name}'.rstrip()}\n\n```text\n{page}\n```\n")
    return "\n".join(parts)


def markdown_files() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def shell_lines(text: str) -> Iterator[str]:
    """Command lines of the shell blocks: continuations joined, prompts and comments dropped."""
    for block in SHELL_BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line and not line.startswith("#"):
                yield line


def line_complaint(line: str, targets: set[str], pages: dict[str, str]) -> str | None:
    """What is wrong with one documented command line, or None."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return None  # a multi-line quotation, as in curl's JSON: nothing to look up
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words:
        return None
    program = words[0].rsplit("/", 1)[-1]
    if program == "make":
        unknown = [word for word in words[1:] if re.fullmatch("[a-z][a-z0-9-]*", word)]
        unknown = [word for word in unknown if word not in targets]
        return f"make has no target {unknown[0]!r}" if unknown else None
    if program == "tribody" and len(words) > 1 and not words[1].startswith("-"):
        command = " ".join(words[1:3]) if " ".join(words[1:3]) in pages else words[1]
        if command not in pages:
            return f"tribody has no command {command!r}"
        for word in words[2:]:
            option = word.split("=")[0]
            if option.startswith("--") and option not in pages[command]:
                return f"tribody {command} has no option {option}"
    return None


def complaints(path: Path, targets: set[str], pages: dict[str, str]) -> Iterator[str]:
    text = path.read_text("utf-8")
    for line in shell_lines(text):
        complaint = line_complaint(line, targets, pages)
        if complaint:
            yield f"{complaint}: {line}"
    for link in LINK.findall(text):
        is_local = "://" not in link and not link.startswith("mailto:")
        if is_local and not (path.parent / link).exists():
            yield f"link leads nowhere: {link}"


def main() -> int:
    pages = dict(help_pages())
    page = cli_page(pages)
    if "--write" in sys.argv[1:]:
        CLI_PAGE.write_text(page, "utf-8")
    found = []
    if not CLI_PAGE.exists() or CLI_PAGE.read_text("utf-8") != page:
        found.append(f"{CLI_PAGE}: out of date: {sys.executable} scripts/check_docs.py --write")
    targets = set(TARGET.findall((ROOT / "Makefile").read_text("utf-8")))
    for path in markdown_files():
        found += [f"{path}: {complaint}" for complaint in complaints(path, targets, pages)]
    print("\n".join(found) or f"docs: {len(markdown_files())} pages agree with what exists")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
