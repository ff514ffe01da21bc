"""What thousands of connections that hardly move do to those that do.

    .venv-bench/bin/python bench/slow_loris.py [--seconds 120] [--headers 2000] [--bodies 500] …

A server with the scripted engine; four good clients stream short answers one after the other, first
alone, then beside clients that send a byte of their headers or of their body every ten seconds, or
read a byte of their answer.  The goals: the good clients' first token at the 95th percentile is at
most 1.2 times as late, slow headers are cut after 10 s and slow bodies after 60, and the processes
grow by at most 64 MiB.

The attackers are a process of their own with the lowest priority: elsewhere they would be other
machines.  The good clients rest for a random while between two answers, or else they would ask in
step with the engine, whose steps would round their times.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from overhead import SERVE, server_url

GOOD_CLIENTS = 4
LOWEST_PRIORITY = 19
LONGEST_REST = 0.02  # seconds: four steps of the engine
DRIP_SECONDS = 10.0
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
SMALL_BUFFER = 4096  # of a slow reader's socket


@dataclass
class Seen:
    firsts: list[float] = field(default_factory=list)  # seconds to a good client's first token
    good_errors: int = 0
    cut_headers: list[float] = field(default_factory=list)  # seconds until the server cut it off
    cut_bodies: list[float] = field(default_factory=list)
    refused: int = 0  # connections that could not be made


def request(tokens: int) -> bytes:
    body = json.dumps(
        {
            "model": "scripted",
            "messages": [{"role": "user", "content": "[[count: 400]]"}],
            "thinking": {"type": "disabled"},
            "stream": True,
            "max_tokens": tokens,
        }
    ).encode()
    return HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def good(port: int, until: float, seen: Seen, seed: int) -> None:
    rng = random.Random(seed)
    while time.monotonic() < until:
        await asyncio.sleep(rng.uniform(0, LONGEST_REST))
        started = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(20))
            await reader.readuntil(b"data: ")
            seen.firsts.append(time.monotonic() - started)
            rest = await reader.read(-1)
            seen.good_errors += b"[DONE]" not in rest
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            seen.good_errors += 1
            await asyncio.sleep(0.1)


async def drip(port: int, until: float, head: bytes, cut: list[float], seen: Seen) -> None:
    """Send `head`, then a byte every ten seconds, until the server has had enough."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        seen.refused += 1
        return
    started = time.monotonic()
    writer.write(head)
    while time.monotonic() < until:
        with contextlib.suppress(OSError, TimeoutError):
            answer = await asyncio.wait_for(reader.read(4096), DRIP_SECONDS)
            if answer:
                continue
            cut.append(time.monotonic() - started)
            break
        if reader.at_eof() or writer.is_closing():
            cut.append(time.monotonic() - started)
            break
        writer.write(b"x")
    writer.close()


async def sip(port: int, until: float, seen: Seen) -> None:
    """Ask, and read a byte of the answer every ten seconds."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, request(200))
        while time.monotonic() < until:
            await loop.sock_recv(connection, 1)
            await asyncio.sleep(DRIP_SECONDS)
    except OSError:
        seen.refused += 1
    finally:
        connection.close()


def megabytes(server: subprocess.Popen[str]) -> float:
    """Resident, the server and its children together."""
    listed = subprocess.run(
        ["ps", "-o", "rss=", "--pid", str(server.pid), "--ppid", str(server.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    return sum(map(int, listed.stdout.split())) / 1024


def percentile_95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


async def attack(port: int, given: argparse.Namespace) -> Seen:
    """What the attackers see; the work of a process of its own."""
    seen = Seen()
    until = time.monotonic() + given.seconds
    body = HEAD + b"content-length: 1000000\r\n\r\n"
    await asyncio.gather(
        *(drip(port, until, HEAD, seen.cut_headers, seen) for _ in range(given.headers)),
        *(drip(port, until, body, seen.cut_bodies, seen) for _ in range(given.bodies)),
        *(sip(port, until, seen) for _ in range(given.readers)),
    )
    return seen


async def good_clients(port: int, seconds: float) -> Seen:
    seen = Seen()
    until = time.monotonic() + seconds
    await asyncio.gather(*(good(port, until, seen, seed) for seed in range(GOOD_CLIENTS)))
    return seen


async def measure(
    server: subprocess.Popen[str], port: int, given: argparse.Namespace
) -> dict[str, object]:
    alone = await good_clients(port, given.alone)
    before = most = megabytes(server)
    attackers = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--attack", str(port), *sys.argv[1:]),
        stdout=asyncio.subprocess.PIPE,
    )
    running = asyncio.gather(good_clients(port, given.seconds), attackers.communicate())
    while not running.done():
        await asyncio.wait({running}, timeout=1.0)
        most = max(most, megabytes(server))
    beside, (printed, _) = running.result()
    attacked = Seen(**json.loads(printed))
    first, last = (percentile_95(seen.firsts) for seen in (alone, beside))
    return {
        "good_requests": [len(alone.firsts), len(beside.firsts)],
        "good_errors": alone.good_errors + beside.good_errors,
        "first_token_p95_ms": [round(first * 1e3, 1), round(last * 1e3, 1)],
        "ratio": round(last / first, 2),
        "headers_cut_after_s": _range(attacked.cut_headers, given.headers),
        "bodies_cut_after_s": _range(attacked.cut_bodies, given.bodies),
        "refused": attacked.refused,
        "grown_mib": round(most - before, 1),
    }


def _range(cut: list[float], of: int) -> str:
    if not cut:
        return f"none of {of}"
    return f"{len(cut)} of {of}, {min(cut):.1f} to {max(cut):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--alone", type=float, default=20.0, help="seconds of good clients alone")
    parser.add_argument("--headers", type=int, default=2000)
    parser.add_argument("--bodies", type=int, default=500)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--json", type=Path, help="append the result")
    parser.add_argument("--attack", type=int, help=argparse.SUPPRESS)  # the port
    given = parser.parse_args()
    if given.attack:
        os.nice(LOWEST_PRIORITY)
        print(json.dumps(asdict(asyncio.run(attack(given.attack, given)))))
        return
    server = subprocess.Popen(
        [*SERVE, "scripted:rate=200", "--port", "0", "--log-level", "error"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        port = urlsplit(server_url(server)).port
        assert port is not None
        found = asyncio.run(measure(server, port, given))
    finally:
        server.terminate()
        server.wait(60)
    print(json.dumps(found, indent=2))
    if given.json:
        with given.json.open("a") as file:
            file.write(json.dumps({"bench": "slow_loris", **found}) + "\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
