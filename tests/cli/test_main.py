"""The command line: help, exit codes, and what is not imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tribody import __version__
from tribody.cli.main import main

COMMANDS = ("serve", "chat", "generate", "pull", "bench", "doctor", "version")


@pytest.fixture
def tribody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the console script in this process; its exit code and what it printed."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tribody", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run


Tribody = Callable[..., tuple[int, str]]


def test_help_lists_every_command(tribody: Tribody) -> None:
    code, shown = tribody("--help")
    assert code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in shown
        assert tribody(name, "--help")[0] == 0


def test_help_imports_little() -> None:
    """`--help` must answer in half a second: none of these may be needed for it."""
    code = (
        "import sys; sys.argv = ['tribody', '--help']\n"
        "from tribody.cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'rich', 'starlette', 'uvicorn', 'msgspec', 'tokenizers', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stderr.strip() == "[]"


def test_version(tribody: Tribody) -> None:
    assert tribody("version") == (0, f"tribody {__version__}\n")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["frobnicate"], 2, "No such command"),
        (["serve", "--port", "70000"], 2, "65535"),
        (["serve", "--host", "0.0.0.0", "--port", "0"], 2, "--api-key-file"),
        (["serve", "no/such/model", "--port", "0"], 2, "no/such/model"),
        (["generate", "/nowhere/in.jsonl", "/nowhere/out.jsonl"], 2, "/nowhere/out.jsonl"),
        (["chat", "--url", "ftp://x"], 2, "not an address"),
        (["chat", "--url", "http://127.0.0.1:1", "-m", "x"], 1, "no answer"),
    ],
)
def test_exit_codes(tribody: Tribody, words: list[str], code: int, text: str) -> None:
    ended, shown = tribody(*words)
    assert ended == code, shown
    assert text in shown
    assert "Traceback" not in shown
