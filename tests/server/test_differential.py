"""One answer, however it is asked for: plain, streamed, in a crowd, and from the prefix cache.

500 prompts, half of them greedy, half with a seed.  Text, reasoning, finish reason and usage are
the same; only the hits of the cache differ, as they should.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.server.scripted import sse_payloads
from tests.server.shipped import serving
from tests.server.test_tools import streamed
from tribody.quality.held_out import bundled_file, choose, read_items

NUM_PROMPTS = 500
CROWD = 16
SYSTEM = (
    "You are asked many short questions, one after the other.  Each stands for itself.  Think as "
    "long as you need, then give the result, and nothing else, in the last line of the answer."
)
Asked = tuple[dict[str, Any], str, dict[str, int]]  # message, finish reason, usage


def bodies(model: str, max_tokens: int) -> list[dict[str, Any]]:
    made = []
    path = bundled_file()
    assert path is not None
    for number, item in enumerate(choose(read_items(path), NUM_PROMPTS)):
        sampling = {"temperature": 0} if number % 2 else {"temperature": 1, "seed": number}
        messages = [
            {"role": "system", "content": f"{SYSTEM} This is number {number}."},
            {"role": "user", "content": item.prompt},
        ]
        made.append({"model": model, "messages": messages, "max_tokens": max_tokens, **sampling})
    assert len(made) == NUM_PROMPTS
    return made


async def ask(http: httpx2.AsyncClient, body: dict[str, Any], user: str, *, stream: bool) -> Asked:
    sent = {**body, "user_id": user, "stream": stream}
    answer = await http.post("/chat/completions", json=sent)
    assert answer.status_code == 200, answer.text
    if stream:
        payloads = sse_payloads(answer.text)
        choice = streamed(answer.text)
        return choice["message"], choice["finish_reason"], payloads[-1]["usage"]
    whole = answer.json()
    choice = whole["choices"][0]
    assert choice["message"].pop("refusal") is None  # which streams leave out
    return choice["message"], choice["finish_reason"], whole["usage"]


def same(first: Asked, other: Asked) -> bool:
    """Everything but what came from the cache."""
    counts = ("prompt_tokens", "completion_tokens", "completion_tokens_details")
    return first[:2] == other[:2] and all(first[2][name] == other[2][name] for name in counts)


async def compare(url: str, model: str, max_tokens: int) -> None:
    asked = bodies(model, max_tokens)
    hits = 0
    async with httpx2.AsyncClient(base_url=url, timeout=120.0, verify=False) as http:
        crowd: list[Asked] = []
        for first in range(0, NUM_PROMPTS, CROWD):
            crowd += await asyncio.gather(
                *(
                    ask(http, body, f"crowd-{first + i}", stream=bool(i % 2))
                    for i, body in enumerate(asked[first : first + CROWD])
                )
            )
        for number, body in enumerate(asked):
            plain = await ask(http, body, f"alone-{number}", stream=False)
            again = await ask(http, body, f"alone-{number}", stream=True)
            assert plain[2]["prompt_cache_hit_tokens"] == 0
            hits += again[2]["prompt_cache_hit_tokens"] > 0
            assert same(plain, again), (number, plain, again)
            assert same(plain, crowd[number]), (number, plain, crowd[number])
    assert hits == NUM_PROMPTS


@pytest.fixture
def mini_r1() -> Iterator[str]:
    with serving("mini-r1", "--api", "sampling=openai") as url:
        yield url


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mini_r1(mini_r1: str) -> None:
    asyncio.run(compare(mini_r1, "mini-r1", 256))


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1800)
def test_smollm2() -> None:
    with serving("smollm2", "--api", "sampling=openai") as url:
        asyncio.run(compare(url, "smollm2", 12))
