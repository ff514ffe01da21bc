"""The server that all suites of this folder are pointed at, and where their programs are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.shipped import serving

ROOT = Path(__file__).parents[2]
LITELLM_PYTHON = ROOT / ".venv-litellm" / "bin" / "python"
TESTS_OF_OPENAI = ROOT / "build" / "clients" / "openai-python"

# What the suites ask for by name, and the two names of DeepSeek's examples.
ALIASES = {
    "deepseek-chat": "off",
    "deepseek-reasoner": "on",
    "gpt-6-astra": "off",
    "gpt-3.5-turbo-instruct": "off",
    "text-embedding-3-small": "off",
    "claude-sonnet-4-5": "on",
}


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A scripted server with the API as it is by default."""
    options = [f"--alias={name}=scripted,thinking={mode}" for name, mode in ALIASES.items()]
    with serving("scripted", *options) as found:
        yield found


def said_by(command: list[str | Path], url: str, cwd: Path = ROOT, **environment: str) -> str:
    """What a program that ends well prints, with `url` in its environment."""
    completed = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"TRIBODY_URL": url} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout[-8000:]
    return completed.stdout
