"""Requests that were mangled on the way: the server refuses or answers them, and nothing more.

Whatever comes, it does not crash, answers no 5xx, lets nothing run on, and serves the next request
as it did the first.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.server.mutations import mutated, recorded, with_length
from tests.server.scripted import Held, RunningServer, client_of
from tests.server.shipped import started
from tribody.server.routes import GENERATING

AT_ONCE = 48
SILENCE_SECONDS = 0.2  # after which no answer is waited for any longer
MIB = 2**20
STATUS = re.compile(rb"^HTTP/1\.1 (\d{3})", re.MULTILINE)
ASKED = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "[[count: 5]]"}],
    "thinking": {"type": "disabled"},
    "temperature": 0,
    "seed": 1,
}


async def send(url: str, requests: list[bytes], *, whole: bool = False) -> list[bytes]:
    """What comes back for each: one `whole` answer, or all until the server falls silent."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(data: bytes) -> bytes:
        async with places:
            return await _answer(urlsplit(url).hostname, urlsplit(url).port, data, whole)

    return await asyncio.gather(*(one(data) for data in requests))


async def _answer(host: str | None, port: int | None, data: bytes, whole: bool) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    received = b""
    try:
        writer.write(data)
        seconds = 60.0 if whole else SILENCE_SECONDS
        while part := await asyncio.wait_for(reader.read(65536), seconds):
            received += part
            if whole and _is_whole(received):
                break
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return received


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return len(body) >= int(length[1]) if length else body.endswith(b"\r\n0\r\n\r\n")


def check_answers(requests: list[bytes], answers: list[bytes]) -> int:
    """How many were answered at all; none with a 5xx."""
    for request, answer in zip(requests, answers, strict=True):
        for status in STATUS.findall(answer):
            assert int(status) < 500, (request, answer)
        assert b"Traceback" not in answer, (request, answer)
    return sum(bool(answer) for answer in answers)


def answer_to_a_clean_request(http: httpx2.Client) -> object:
    answer = http.post("/v1/chat/completions", json=ASKED)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def test_valid_requests_are_answered(running: RunningServer) -> None:
    requests = recorded()
    answers = asyncio.run(send(running.url, requests, whole=True))
    for request, answer in zip(requests, answers, strict=True):
        if request.split(b" ")[1].decode() in GENERATING:
            assert answer.startswith(b"HTTP/1.1 200 "), (request, answer)
    check_answers(requests, answers)


def test_three_hundred_mutations(running: RunningServer) -> None:
    rng = Random(1)
    originals = recorded()
    requests = [mutated(rng, originals) for _ in range(300)]
    with client_of(running) as http:
        before = answer_to_a_clean_request(http)
        answers = asyncio.run(send(running.url, requests))
        assert check_answers(requests, answers) > 150
        assert answer_to_a_clean_request(http) == before
    assert not running.engine._active


def test_pipelined_requests_end_with_their_connection(running: RunningServer) -> None:
    """The first waits for its body behind refused headers or a reader that has gone."""
    service = running.server.config.app.state.service  # type: ignore[union-attr]
    body = b'{"model":"scripted","messages":[{"role":"user","content":"x"}]}'
    good = with_length("/v1/chat/completions", body)
    refused = good.replace(b"\r\n", b"\r\nX: " + b"a" * 20_000 + b"\r\n", 1)
    held = running.engine.hold = Held(after=1)
    asyncio.run(send(running.url, [good * 3, refused + good * 2 + good[:-5]] * 4))
    assert held.reached.wait(5)
    for _ in range(100):
        if not service.in_flight and not running.server.server_state.tasks:
            break
        time.sleep(0.05)
    assert service.in_flight == 0
    assert not running.server.server_state.tasks
    assert not running.engine._active


def resident_bytes(pid: int) -> int:
    """Of a process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 + sum(resident_bytes(int(child)) for child in children)


async def settled(http: httpx2.Client) -> None:
    """Nothing runs, waits or holds memory any more."""
    names = ("tribody_requests_running", "tribody_requests_waiting", "tribody_kv_pages_used")
    for _ in range(100):
        text = http.get("/metrics").text
        found = [re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE) for name in names]
        if all(float(value) == 0 for values in found for value in values):
            assert all(found)
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"something still runs: {dict(zip(names, found, strict=True))}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_thousand_mutations(tmp_path: Path) -> None:
    """Against the server as a process; at its end it drains, so no request is left in flight."""
    seed = Random().randrange(2**32)
    print(f"seed {seed}")
    rng = Random(seed)
    originals = recorded()
    answered = total = 0
    resident: list[int] = []
    with (
        started("scripted", "--data-dir", str(tmp_path)) as server,
        httpx2.Client(base_url=server.url, verify=False) as http,
    ):
        before = answer_to_a_clean_request(http)
        for _ in range(40):
            requests = [mutated(rng, originals) for _ in range(500)]
            answers = asyncio.run(send(server.url, requests))
            total += len(requests)
            answered += check_answers(requests, answers)
            assert answer_to_a_clean_request(http) == before
            asyncio.run(settled(http))
            resident.append(resident_bytes(server.pid))
        restarts = re.findall(
            r"^tribody_engine_restarts_total{.*} (\S+)$", http.get("/metrics").text, re.M
        )
    assert [float(value) for value in restarts] == [0.0]
    grown = max(resident) - resident[0]
    print(f"{answered} of {total} were answered; memory grew by {grown / MIB:.1f} MiB")
    assert answered > total / 2
    assert grown <= 64 * MIB
