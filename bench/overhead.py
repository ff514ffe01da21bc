"""What the server adds to the engine's time per token, and how long its event loop stands still.

    .venv-bench/bin/python bench/overhead.py [--rate 50] [--streams 16] [--tokens 400]

The scripted engine takes 1/rate seconds a step, so whatever a stream takes beyond that was added.
Time per token is what a client sees between the first piece and the last, over the pieces between;
the engine's is its own count of busy seconds by steps.  Meanwhile a process of its own asks /health
every 5 ms on one connection: its longest answer is an upper bound of the event loop's stalls.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlsplit

import load

PROBE_SECONDS = 0.005
SERVE = (sys.executable, "-m", "tribody.cli.main", "serve")


def measure(rate: float, streams: int, tokens: int) -> dict[str, object]:
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tribody.cli.main",
            "serve",
            f"scripted:rate={rate:g}",
            "--port",
            "0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = server_url(server)
        asyncio.run(load.run(_job(url, streams, 20)))
        probe = subprocess.Popen(
            [sys.executable, __file__, "--probe", url, "--seconds", f"{tokens / rate:g}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        before, cpu = _engine(url), _cpu_seconds(server.pid)
        result = asyncio.run(load.run(_job(url, streams, tokens)))
        after, cpu = _engine(url), _cpu_seconds(server.pid) - cpu
        stalls = json.loads(probe.communicate()[0])
    finally:
        server.terminate()
        server.wait(30)
    assert result.errors == 0
    engine = (after["busy"] - before["busy"]) / (after["steps"] - before["steps"])
    seen = sum(result.gaps) / (streams * (tokens - 1))
    return {
        "streams": streams,
        "tokens_each": tokens,
        "engine_ms_per_token": round(engine * 1e3, 3),
        "client_ms_per_token": round(seen * 1e3, 3),
        "added_percent": round((seen / engine - 1) * 100, 2),
        "api_cpu_ms_per_token": round(cpu / (streams * tokens) * 1e3, 3),
        "first_token_ms_median": round(statistics.median(result.firsts) * 1e3, 1),
        "probes": len(stalls),
        "longest_probe_ms": round(max(stalls) * 1e3, 1),
    }


def server_url(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"ready at (http://\S+)/v1", line)
        if found:
            return found[1]
    raise SystemExit("the server did not start")


def _job(url: str, streams: int, tokens: int) -> dict[str, object]:
    def body(number: int) -> dict[str, object]:
        return {
            "model": "scripted",
            "messages": [{"role": "user", "content": f"[[count: 2000]] {number}"}],
            "thinking": {"type": "disabled"},
            "stream": True,
            "ignore_eos": True,
            "max_tokens": tokens,
        }

    return {"url": f"{url}/v1", "stagger": 0, "clients": [[body(i)] for i in range(streams)]}


def _engine(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    names = {"busy": "tribody_engine_busy_seconds_total", "steps": "tribody_engine_steps_total"}
    found = {key: re.search(rf"^{name}{{.*}} (\S+)$", text, re.M) for key, name in names.items()}
    return {key: float(match[1]) for key, match in found.items() if match}


def _cpu_seconds(pid: int) -> float:
    """Of the API process alone."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def probe(url: str, seconds: float) -> list[float]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        times.append(time.perf_counter() - started)
        time.sleep(PROBE_SECONDS)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe:
        print(json.dumps(probe(given.probe, given.seconds)))
    else:
        print(json.dumps(measure(given.rate, given.streams, given.tokens), indent=2))


if __name__ == "__main__":
    main()
