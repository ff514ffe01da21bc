"""A measuring process: starts one of bench/subject.py and bench/peers/*.py, asks, gets answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from cells import ITSELF
from machine import ROOT

Answer = dict[str, object]

# What measures, and which interpreter has it.  llama.cpp's is another build of it in
# `--llama-python`; transformers' is the environment of `make parity`.
MODULES = {
    "tribody": "subject",
    ITSELF: "subject",
    "llama.cpp": "peers.llamacpp",
    "transformers": "peers.torch_transformers",
}
TRANSFORMERS_PYTHON = ROOT / ".venv-parity" / "bin" / "python"


class PeerFailed(Exception):
    """The process cannot start or died; its own words are on stderr."""


class PeerProcess:
    """One process; a context manager."""

    def __init__(self, program: str, python: Path | None = None) -> None:
        """`python`: the interpreter, this one unless given."""
        command = [str(python or sys.executable), "-m", MODULES[program]]
        if python and not python.exists():
            raise PeerFailed(f"{program}: {python} is missing")
        self._program = program
        self._process = subprocess.Popen(
            command,
            cwd=ROOT / "bench",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the caller, who then closes stdin
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process; waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, op: str, **arguments: object) -> Answer:
        """One request, one answer.  Raises PeerFailed if the process dies over it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            raise PeerFailed(f"{self._program} ended with status {status} over {op}")
        answer: Answer = json.loads(line)
        return answer
