"""Clients of a chat server, in a process of their own: a closed loop over streaming answers.

    load.py < job.json > result.json        (started by bench/serve.py)

Client i begins i * `stagger` seconds after the first and sends its requests one after another.
Knows nothing of tribody: any server that speaks OpenAI's API and takes `ignore_eos` will do.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass, field

import aiohttp

TIMEOUT_SECONDS = 600.0  # of one answer: far beyond any that is worth waiting for


@dataclass(slots=True)
class Result:
    """Of all clients.  Times in seconds; `firsts` from sending to the first piece of content,
    `gaps` between two pieces of one answer.  A failed request gives neither tokens nor times."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


async def run(job: dict[str, object]) -> Result:
    """`job`: url, stagger, and clients: for each the bodies of its requests."""
    result = Result()
    clients, stagger = job["clients"], float(str(job["stagger"]))
    assert isinstance(clients, list)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        started = time.perf_counter()
        await asyncio.gather(
            *(
                client(session, str(job["url"]), bodies, index * stagger, result)
                for index, bodies in enumerate(clients)
            )
        )
        result.seconds = time.perf_counter() - started
    return result


async def client(
    session: aiohttp.ClientSession,
    url: str,
    bodies: list[dict[str, object]],
    delay: float,
    result: Result,
) -> None:
    await asyncio.sleep(delay)
    for body in bodies:
        result.requests += 1
        try:
            await ask(session, url, body, result)
        except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
            result.errors += 1
            print(f"request failed: {problem}", file=sys.stderr)


async def ask(
    session: aiohttp.ClientSession, url: str, body: dict[str, object], result: Result
) -> None:
    """One streamed answer.  Raises: ValueError when it does not end as it should."""
    pieces: list[float] = []
    usage: dict[str, object] | None = None
    sent = time.perf_counter()
    async with session.post(f"{url}/chat/completions", json=body) as answer:
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {(await answer.text())[:200]}")
        async for line in answer.content:
            now = time.perf_counter()
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if has_text(event):
                pieces.append(now)
            usage = event.get("usage") or usage
    if usage is None or usage["completion_tokens"] != body["max_tokens"]:
        raise ValueError(f"the answer is not whole: usage {usage}, asked {body['max_tokens']}")
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens", 0) if isinstance(details, dict) else 0
    result.prompt_tokens += int(str(usage["prompt_tokens"]))
    result.cached_tokens += cached
    result.output_tokens += int(str(usage["completion_tokens"]))
    result.firsts += [pieces[0] - sent] if pieces else []
    result.gaps += [later - earlier for earlier, later in itertools.pairwise(pieces)]


def has_text(event: dict[str, object]) -> bool:
    """Whether a chunk brings a piece of the answer, thinking included."""
    choices = event.get("choices")
    deltas = [choice.get("delta", {}) for choice in choices] if isinstance(choices, list) else []
    return any(d.get("content") or d.get("reasoning_content") for d in deltas)


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(json.load(sys.stdin))))))
