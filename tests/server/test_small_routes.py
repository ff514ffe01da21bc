"""/tokenize and /user/balance."""

from __future__ import annotations

import httpx2
import pytest

from tests.server.scripted import CONTEXT

ASK = [{"role": "user", "content": "hé"}]


def test_tokenize_counts_what_a_request_would_cost(http: httpx2.Client) -> None:
    body = {"model": "scripted", "prompt": "hé", "return_token_strs": True}
    made = http.post("/tokenize", json=body).json()
    assert (made["count"], len(made["tokens"]), made["max_model_len"]) == (3, 3, CONTEXT)
    assert made["token_strs"] == ["h", "\ufffd", "\ufffd"]
    made = http.post("/tokenize", json={"model": "scripted", "messages": ASK}).json()
    answer = http.post("/v1/chat/completions", json={"model": "scripted", "messages": ASK}).json()
    assert made["count"] == answer["usage"]["prompt_tokens"]
    assert made["token_strs"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "messages": ASK}, "prompt"),
        ({"messages": []}, "messages"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "x", "model": "nobody"}, "model"),
        ({"prompt": "x" * 10_000_000}, "prompt"),
    ],
)
def test_what_cannot_be_tokenized(
    http: httpx2.Client, fields: dict[str, object], param: str
) -> None:
    answer = http.post("/tokenize", json={"model": "scripted", **fields})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


def test_balance_without_a_ledger(http: httpx2.Client) -> None:
    assert http.get("/user/balance").json() == {"is_available": True, "balance_infos": []}
