"""`tribody serve scripted` as its users start it: a process of its own on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    url: str
    pid: int
    admin_url: str = ""  # with --accounts


@contextmanager
def serving(model: str = "scripted", *options: str) -> Iterator[str]:
    """The URL of a server that runs meanwhile and is then drained."""
    with started(model, *options) as server:
        yield server.url


@contextmanager
def started(model: str = "scripted", *options: str) -> Iterator[Started]:
    """As `serving`, with the process's id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tribody.cli.main", "serve", model, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if "TRIBODY" not in name},
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            ready = re.search(r"ready at (http://\S+)/v1", line)
            if ready:
                break
        else:
            raise AssertionError("the server ended before it was ready")
        admin = None
        while "--accounts" in options and admin is None:
            admin = re.search(r"admin API at (http://[0-9.:]+)", process.stdout.readline())
        yield Started(ready[1], process.pid, admin[1] if admin else "")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
