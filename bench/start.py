"""How soon a server answers after its process began, and how much memory it takes.

    .venv/bin/python bench/start.py [MODEL] [--starts N] [--kv-memory SIZE] [--json FILE] …

Each start is `tribody serve MODEL` as a user types it, a Python process of its own.  Ready: the
first answer of GET /health with status 200, asked every 5 ms from the moment that the process
exists.  The packed weights are kept in a folder of this run's own: start 0 encodes, the others map.
Time on the processors is summed over the server, the engine and the template process; memory
likewise, when the server is ready and again after `--answers` chats at once, which fill the KV
memory's first pages and the operators' work space.  Resident memory counts what processes share
once for each (RSS) or once (PSS).  The goal: weights + KV budget + 150 MB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from conversations import question
from tribody.loading.download import default_cache_dir
from tribody.loading.hub import resolve

POLL_SECONDS = 0.005
PATIENCE_SECONDS = 600.0
READY = re.compile(r"tribody is ready at http://[^:]+:(\d+)/v1")
SIZES = re.compile(r"weights \S+ \((\d+) MiB.*KV \S+ (\d+) MiB")
TICKS = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += children(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mb(pid: int) -> dict[str, float]:
    """{"Rss": …, "Pss": …} in megabytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
    return {name: sizes[name] * 1024 / 1e6 for name in ("Rss", "Pss")}


def memory(pid: int) -> dict[str, float]:
    each = [resident_mb(process) for process in children(pid)]
    return {f"{name.lower()}_mb": sum(one[name] for one in each) for name in ("Rss", "Pss")}


def answers_health(port: int) -> bool:
    try:
        url = f"http://127.0.0.1:{port}/health"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, model: str, number: int) -> None:
    body = question(model, random.Random(number), (16, 16)) | {"stream": False}
    del body["stream_options"]
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        json.load(answer)


def start(path: Path, options: argparse.Namespace, cache: Path, number: int) -> dict[str, object]:
    """One start, measured.  Raises: RuntimeError when the server ends."""
    port = free_port()
    command = [sys.executable, "-m", "tribody.cli.main", "serve", str(path), "--port", f"{port}"]
    command += ["--dtype", options.dtype, "--kv-memory", options.kv_memory]
    command += ["--log-level", "warning"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    began = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        while not answers_health(port):
            if server.poll() is not None or time.perf_counter() - began > PATIENCE_SECONDS:
                raise RuntimeError("the server did not come up")
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        processes = children(server.pid)
        result: dict[str, object] = {
            "start": number,
            "ready_seconds": seconds,
            "cpu_seconds": sum(cpu_seconds(process) for process in processes),
            "processes": len(processes),
            "at_ready": memory(server.pid),
        }
        assert server.stdout is not None
        said = ""
        while "try:" not in said:
            said += server.stdout.readline()
        sizes = SIZES.search(said)
        assert sizes is not None, said
        result["weights_mb"], result["kv_mb"] = (int(size) * 2**20 / 1e6 for size in sizes.groups())
        if number == options.starts and options.answers:
            url = f"http://127.0.0.1:{port}/v1"
            with urllib.request.urlopen(f"{url}/models") as answer:
                model = json.load(answer)["data"][0]["id"]
            with ThreadPoolExecutor(options.answers) as pool:
                list(pool.map(lambda n: ask(url, model, n), range(options.answers)))
            result["after_answers"] = memory(server.pid)
        return result
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate()


def show(results: Sequence[dict[str, object]], console: Console) -> None:
    table = Table("start", "ready s", "CPU s", "RSS MB", "PSS MB", "RSS after", "PSS after")
    for result in results:
        at, after = result["at_ready"], result.get("after_answers")
        assert isinstance(at, dict)
        row = [
            f"{result['start']}",
            f"{result['ready_seconds']:.2f}",
            f"{result['cpu_seconds']:.2f}",
        ]
        row += [f"{at['rss_mb']:.0f}", f"{at['pss_mb']:.0f}"]
        row += [f"{after[k]:.0f}" for k in ("rss_mb", "pss_mb")] if isinstance(after, dict) else []
        table.add_row(*row)
    console.print(table)
    packed = [float(str(result["ready_seconds"])) for result in results[1:]]
    if packed:
        console.print(
            f"packed: best {min(packed):.2f} s, median {statistics.median(packed):.2f} s; "
            f"limit of memory {results[-1]['weights_mb']:.0f} + {results[-1]['kv_mb']:.0f} + 150 MB"
        )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--starts", type=int, default=9, help="from packed weights")
    parser.add_argument(
        "--answers", type=int, default=16, help="chats at once after the last start"
    )
    parser.add_argument("--dtype", default="w8g32")
    parser.add_argument("--kv-memory", default="256MiB")
    parser.add_argument("--json", type=Path, help="append one line a start to this file")
    options = parser.parse_args(arguments)
    path = resolve(options.model, cache_dir=default_cache_dir(os.environ))
    results = []
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        for number in range(options.starts + 1):
            results.append(start(path, options, Path(folder), number))
            if options.json is not None:
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"model": options.model, **results[-1]}) + "\n")
    show(results, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
