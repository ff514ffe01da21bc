"""Talks to bench/peers/llamacpp.py: starts it in its own environment, asks, gets answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType

from machine import ROOT

PEER_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
PEER_SCRIPT = ROOT / "bench" / "peers" / "llamacpp.py"


class PeerFailed(Exception):
    """The peer cannot start or died; its own words are on stderr."""


class PeerProcess:
    """One llama.cpp process; a context manager."""

    def __init__(self, python: Path = PEER_PYTHON) -> None:
        """`python`: an interpreter with llama-cpp-python."""
        if not python.exists():
            raise PeerFailed(f"{python} is missing: make bench builds .venv-bench")
        self._process = subprocess.Popen(
            [str(python), str(PEER_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, op: str, **arguments: object) -> dict[str, float | int | str]:
        """One request, one answer.  Raises PeerFailed if the peer dies over it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise PeerFailed(f"llama.cpp ended with status {status} over {op}")
        answer: dict[str, float | int | str] = json.loads(line)
        return answer


def make_q8_0(source: Path, folder: Path) -> Path:
    """The peer's weights: Q8_0 made once from `source` by llama.cpp itself, kept in `folder`."""
    target = folder / f"{source.stem.rsplit('.', 1)[0]}.Q8_0.gguf"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with PeerProcess() as peer:
            peer.ask("quantize", source=str(source), target=str(target))
    return target
