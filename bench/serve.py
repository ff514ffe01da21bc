"""Measures the whole server: clients that stream over HTTP, the server a process of its own.

    .venv-bench/bin/python bench/serve.py [--model smollm2] [--clients 1 4 8 16] [--repeats 3] …

A closed loop of C clients that begin half a second apart, after one request that warms up.  All
share a system prompt of about 150 tokens; prompts have 230 to 420 tokens in all, answers 64 to 128
(temperature 0, ignore_eos).  A new seed for each repeat: only the system prompt can be found in a
cache.  The clients run on the same cores as the server.

tribody alone: llama-cpp-python's server runs one request at a time, and llama.cpp's own is not part
of that package.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

import machine
import model_files
import report
from conversations import OUTPUT_TOKENS, question
from other_work import wait_for_quiet
from peer_process import PeerFailed
from progress import Progress
from records import RecordFile, of_kind
from tribody.core.errors import TribodyError
from tribody.loading.download import default_cache_dir

REQUESTS = {1: 6, 4: 4, 8: 3, 16: 3}  # of each client in a repeat; 3 for other numbers of clients
STAGGER_SECONDS = 0.5
READY = re.compile(r"tribody is ready at (\S+)")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", nargs="+", default=list(model_files.MODELS), help="names or paths")
    add("--clients", nargs="+", type=int, default=list(REQUESTS), help="at once")
    add("--repeats", type=int, default=3)
    add("--quick", action="store_true", help="one short repeat with two clients: is it sound?")
    add("--dtype", default="w8g32", help="tribody's weight format; auto for a packed file")
    add("--step-stretch", type=float, help="as tribody serve's; its default where none is given")
    add("--patience", type=float, default=0, help="seconds to wait for other work, each repeat")
    add("--threads", type=int, default=0, help="of the server (0 = physical cores)")
    add("--llama-python", type=Path, help=argparse.SUPPRESS)  # dsv3-mini is made without it
    add("--out", type=Path, help="the run's folder (default: bench/results/TIME)")
    add("--resume", action="store_true", help="add to the run of --out, or to the newest run")
    add("--report-only", action="store_true", help="draw the report of --out, or of the newest run")
    return parser.parse_args(arguments)


@contextmanager
def server(path: Path, options: argparse.Namespace, log: Path) -> Iterator[str]:
    """A running server's URL.  Raises: PeerFailed when it ends before it is ready."""
    command = [sys.executable, "-m", "tribody.cli.main", "serve", str(path), "--port", "0"]
    command += ["--dtype", options.dtype, "--log-level", "warning"]
    command += ["--threads", str(options.threads)] if options.threads else []
    if options.step_stretch is not None:
        command += ["--step-stretch", str(options.step_stretch)]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            ready = READY.search(line)
            if ready:
                yield ready[1]
                return
        raise PeerFailed(f"the server ended with status {process.wait()}; see {log}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def server_name(options: argparse.Namespace) -> str:
    stretch = options.step_stretch
    return f"tribody {options.dtype}" + ("" if stretch is None else f", stretch {stretch:g}")


def model_id(url: str) -> str:
    with urllib.request.urlopen(f"{url}/models") as answer:
        return str(json.load(answer)["data"][0]["id"])


def run_load(url: str, clients: list[list[dict[str, object]]]) -> dict[str, object]:
    """What bench/load.py measured.  Raises: PeerFailed."""
    job = json.dumps({"url": url, "stagger": STAGGER_SECONDS, "clients": clients})
    command = [sys.executable, str(machine.ROOT / "bench" / "load.py")]
    ended = subprocess.run(command, input=job, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise PeerFailed(f"the clients ended with status {ended.returncode}")
    result: dict[str, object] = json.loads(ended.stdout)
    return result


def measure(
    options: argparse.Namespace, name: str, file: RecordFile, log: Path, progress: Progress
) -> None:
    files = model_files.find(
        name, default_cache_dir(os.environ), options.llama_python, progress.say
    )
    output_tokens = (4, 8) if options.quick else OUTPUT_TOKENS
    with server(files.path, options, log) as url:
        model = model_id(url)
        for number in range(1 if options.quick else options.repeats):
            for count in [2] if options.quick else options.clients:
                place = {
                    "model": files.name,
                    "server": server_name(options),
                    "clients": count,
                    "repeat": number,
                }
                if any(place.items() <= r.items() for r in of_kind(file.records, "serve")):
                    continue
                progress.say(f"{files.name}: {count} clients, repeat {number}")
                draw = random.Random(f"{number}/{count}")
                each = range(1 if options.quick else REQUESTS.get(count, 3))
                clients = [
                    [question(model, draw, output_tokens) for _ in each] for _ in range(count)
                ]
                wait_for_quiet(options.patience, [])  # the server is idle
                run_load(url, [[question(model, draw, output_tokens)]])  # the warm-up
                file.add("serve", {**place, **run_load(url, clients)})


def main(arguments: Sequence[str]) -> int:
    load = os.getloadavg()[0]
    options = parse(arguments)
    progress = Progress()
    try:
        folder = report.folder_of(options)
        if not options.report_only:
            file = RecordFile(folder)
            file.add("run", machine.start_record(load))
            for name in options.model:
                measure(options, name, file, folder / "server.log", progress)
        report.write(folder, Console(width=None if sys.stdout.isatty() else 200))
    except (PeerFailed, TribodyError) as problem:
        progress.say(str(problem))
        return 1
    except KeyboardInterrupt:
        progress.say("stopped; --resume goes on, --report-only draws what there is")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
