"""explain_cache: where a prompt began to differ from an earlier one."""

from __future__ import annotations

import random

import httpx2
import pytest

from tests.server.scripted import byte_source, sse_payloads
from tribody.server.recent_prompts import MOST_PROMPTS, RecentPrompts
from tribody.text.tokenizer import Tokenizer

KEY = ("m", "salt")
TOKENIZER = Tokenizer.from_source(byte_source())
LONG = "You are a careful clerk of a small library in the mountains. " * 3


def ask(http: httpx2.Client, text: str, **fields: object) -> httpx2.Response:
    messages = [{"role": "system", "content": LONG + text}, {"role": "user", "content": "x"}]
    body = {"model": "scripted", "messages": messages, "explain_cache": True, **fields}
    return http.post("/v1/chat/completions", json=body)


def test_the_first_difference_is_named(http: httpx2.Client) -> None:
    user = f"clerk-{random.random()}"
    first = ask(http, "Today is Monday.", user_id=user).json()["cache_explanation"]
    assert (first["same_tokens"], first["first_difference"]) == (0, None)
    second = ask(http, "Today is Tuesday.", user_id=user).json()["cache_explanation"]
    place = second["first_difference"]
    assert place["earlier"].startswith("Monday")
    assert place["now"].startswith("Tuesday")
    assert place["token"] == second["same_tokens"] >= len(LONG + "Today is ")
    assert "x-tribody-ignored" not in ask(http, "", user_id=user).headers
    text = ask(http, "Today is Monday.", user_id=user, stream=True).text
    assert sse_payloads(text)[-1]["cache_explanation"]["first_difference"] is None
    other = ask(http, "Today is Monday.", user_id="another").json()["cache_explanation"]
    assert other["same_tokens"] == 0
    plain = ask(http, "", user_id=user, explain_cache=None).json()
    assert "cache_explanation" not in plain


def test_common_beginnings_are_found_at_every_length() -> None:
    draw = random.Random(5)
    for _ in range(300):
        recent = RecentPrompts()
        shared = [draw.randint(0, 200) for _ in range(draw.randint(0, 300))]
        recent.remember(KEY, [*shared, 201, *draw.choices(range(200), k=draw.randint(0, 9))])
        recent.remember(KEY, [*shared[: len(shared) // 2], 202])
        found = recent.explain(KEY, [*shared, 203], TOKENIZER, 64)
        assert found.same_tokens == len(shared)


def test_what_is_remembered_is_bounded() -> None:
    recent = RecentPrompts(most_tokens=1000)
    for salt in range(50):
        for _ in range(3):
            recent.remember(("m", str(salt)), [salt] * 30)
    assert recent._num_tokens <= 1000
    assert recent._num_tokens == sum(len(p) for ps in recent._prompts.values() for p in ps)
    assert ("m", "0") not in recent._prompts
    recent.remember(KEY, [1] * 1001)
    assert KEY not in recent._prompts
    for _ in range(40):
        recent.remember(KEY, [1])
    assert len(recent._prompts[KEY]) == MOST_PROMPTS


@pytest.mark.parametrize("length", [0, 1])
def test_short_prompts(length: int) -> None:
    recent = RecentPrompts()
    recent.remember(KEY, [7] * length)
    assert recent.explain(KEY, [7], TOKENIZER, 64).same_tokens == length
